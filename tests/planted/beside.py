"""Bugs in what goes on beside training: questions by a language model, export, evaluation."""

from __future__ import annotations

from planted import Mutant

GENERATION = "tests/models/test_generation.py::"
ASKED, KNOWN = "tests/synthesis/", "tests/evaluation/"
MUTANTS = (
    Mutant(
        "money_under_way_is_not_held_back",
        "vista_train/synthesis/budget.py",
        "self.prices.of(sum(self._held.values(), self._spent) + most)",
        "self.prices.of(self._spent + most)",
        ASKED + "test_questions.py::test_a_budget_for_one_request_sends_one_though_many_want_to",
    ),
    Mutant(
        "what_a_killed_run_had_under_way_is_free",
        "vista_train/synthesis/answers.py",
        "        self.budget.forfeit()\n",
        "        self.budget._held.clear()\n",
        ASKED + "test_questions.py::test_killed_and_continued_it_writes_the_same_file",
    ),
    Mutant(
        "answers_outlive_their_prompt",
        "vista_train/synthesis/tasks.py",
        "PROMPTS[self.kind].version, model",
        "model",
        ASKED + "test_questions.py::test_answers_are_found_again_by_clip_prompt_model_and_temperature",
    ),
    Mutant(
        "lost_answers_are_free",
        "vista_train/synthesis/endpoint.py",
        "cost = Tokens() if cause in NEVER_SENT else None",
        "cost = Tokens()",
        ASKED + "test_endpoint.py::test_what_counts_as_paid",
    ),
    Mutant(
        "stories_of_what_was_cut_off",
        "vista_train/augment/questions.py",
        "if not pairs or [clip.duration for clip in clips] != [clip.duration for clip in shown]:",
        "if not pairs:",
        ASKED + "test_used.py::test_a_story_that_fits_is_the_answer_and_one_that_does_not_is_none",
    ),
    Mutant(
        "nothing_is_read_back",
        "vista_train/synthesis/export.py",
        "                if psnr >= LEAST_PSNR:\n",
        "                if True:\n",
        ASKED + "test_export.py::test_a_file_that_shows_something_else_is_no_sample",
    ),
    Mutant(
        "words_of_the_first_attempt",
        "vista_train/synthesis/export.py",
        "self.dataset.sample(position, attempt)\n",
        "self.dataset.sample(position, attempt)\n                attempt = 0\n",
        ASKED + "test_export.py::test_a_sample_whose_files_are_gone_is_replaced_or_told",
    ),
    Mutant(
        "answers_read_one_token_late",
        "vista_train/evaluation/scoring.py",
        "tuple(place - 1 for place in places)",
        "tuple(places)",
        KNOWN + "test_scoring.py::test_likelihoods_are_those_of_log_softmax_and_of_the_training_loss",
    ),
    Mutant(
        "evaluation_with_dropout",
        "vista_train/evaluation/scoring.py",
        "            model.eval()\n            yield\n",
        "            model.train()\n            yield\n",
        KNOWN + "test_scoring.py::test_the_model_is_left_as_it_was_found",
    ),
    Mutant(
        "stride_too_long_scored_all_the_same",
        "vista_train/evaluation/needle.py",
        " or moved > test.tolerance:",
        ":",
        KNOWN + "test_needle.py::test_a_stride_that_is_too_long_is_said_and_not_scored",
    ),
    Mutant(
        "options_turn_the_other_way",
        "vista_train/evaluation/choices.py",
        "(self.right - shift) % self.count",
        "(self.right + shift) % self.count",
        KNOWN + "test_choices.py::test_the_right_option_turns_with_the_others",
    ),
    Mutant(
        "failed_videos_leave_the_count",
        "vista_train/evaluation/multiple_choice.py",
        "        count=len(answered),\n",
        "        count=sum(not one.failure for one in answered),\n",
        KNOWN + "test_choices.py::test_failed_questions_are_wrong_and_counted_apart",
    ),
    Mutant(
        "another_models_answers_are_taken",
        "vista_train/evaluation/answers.py",
        "parts = [self.identity, prompt.key,",
        "parts = [prompt.key,",
        KNOWN + "test_answers.py::test_answers_belong_to_model_settings_and_words",
    ),
    Mutant(
        "an_earlier_answer_is_gone_on_with",
        "vista_train/evaluation/generation.py",
        "places.diff() > 1]).nonzero()[-1, 0]",
        "places.diff() > 1]).nonzero()[0, 0]",
        GENERATION + "test_it_is_what_likelihoods_say[longva]",
    ),
    Mutant(
        "answers_with_frames_that_are_not_there",
        "vista_train/evaluation/generation.py",
        "mrope_3L=mrope_3L), family.codec.stops)",
        "mrope_3L=mrope_3L), frozenset([family.tokenizer.eos_token_id]))",
        GENERATION + "test_what_frames_are_spelt_with_ends_an_answer[longva]",
    ),
    Mutant(
        "newest_token_at_the_first_place",
        "vista_train/evaluation/generation.py",
        "positions_1L=row.positions_1L[:, -1:]",
        "positions_1L=row.positions_1L[:, :1]",
        GENERATION + "test_what_is_kept_says_what_all_computed_again_does[longva]",
    ),
    Mutant(
        "strangers_are_answered",
        "vista_train/evaluation/server.py",
        "            self._check_token()\n            if self.path",
        "            if self.path",
        KNOWN + "test_server.py::test_without_the_token_nothing_is_answered",
    ),
    Mutant(
        "two_threads_in_one_model",
        "vista_train/evaluation/server.py",
        "        with self.turn:\n            (said,)",
        "        if True:\n            (said,)",
        KNOWN + "test_server.py::test_requests_that_come_together_are_answered_one_after_another",
    ),
    Mutant(
        "requests_of_any_size",
        "vista_train/evaluation/server.py",
        "if len(told) > 18 or int(told) > self.server.max_body:",
        "if len(told) > 18:",
        KNOWN + "test_server.py::test_too_much_is_refused_whether_it_comes_or_not",
    ),
    Mutant(
        "the_least_likely_choice_is_taken",
        "scripts/lmms_eval_plugin/vista_train_lmms.py",
        "GenerationResult((-likely, exact))",
        "GenerationResult((likely, exact))",
        KNOWN + "test_lmms_eval.py::test_choices_are_weighed_together_and_the_least_loss_is_the_likeliest",
    ),
    Mutant(
        "what_cannot_be_shown_is_answered_in_silence",
        "scripts/lmms_eval_plugin/vista_train_lmms.py",
        'if failure and self.on_failure == "stop":',
        "if False:",
        KNOWN + "test_lmms_eval.py::test_what_cannot_be_shown_ends_the_evaluation_or_is_no_answer",
    ),
)
