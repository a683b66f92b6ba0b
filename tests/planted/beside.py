"""Bugs in what goes on beside training: questions by a language model, export, evaluation."""

from __future__ import annotations

from planted import Mutant

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
)
