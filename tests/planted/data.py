"""Bugs in data and recipes."""

from __future__ import annotations

from planted import Mutant

MUTANTS = (
    Mutant(
        "losses_that_ended_a_run_end_the_next",
        "vista_train/data/ledger.py",
        "    if given_up(path).exists():\n",
        "    if False:\n",
        "tests/test_failures.py::test_a_run_that_lost_its_disk_stops_and_goes_on_when_it_is_back",
    ),
    Mutant(
        "video_swapped_under_its_question",
        "vista_train/data/dataset.py",
        "return self._encode(composed, position, attempt, tuple(failures), media.at(position))",
        "import dataclasses\n"
        "                words = dataclasses.replace(composed.sample, messages=self.sample(position).messages)\n"
        "                return self._encode(\n"
        "                    Composed(words, self.codec.plan(words)), position, attempt, tuple(failures), media\n"
        "                )",
        "tests/data/test_dataset.py::test_what_cannot_be_decoded_is_replaced_whole_inside_its_slot",
    ),
    Mutant(
        "replacement_over_its_slot",
        "vista_train/data/dataset.py",
        "if composed.plan.tokens > budget.tokens or composed.plan.patches > budget.patches:",
        "if False:",
        "tests/data/test_dataset.py::test_what_cannot_be_decoded_is_replaced_whole_inside_its_slot",
    ),
    Mutant(
        "attempts_share_their_draws",
        "vista_train/data/draws.py",
        "attempt << 32 | draw",
        "draw",
        "tests/data/test_draws.py::test_no_two_draws_share_a_stream",
    ),
    Mutant(
        "anchor_gone_after_one_cast",
        "vista_train/data/dataset.py",
        "            if number % TRIES_PER_ANCHOR == 0:\n",
        "            if True:\n",
        "tests/data/test_casting.py::test_the_anchor_stays_while_others_can_take_their_turn",
    ),
    Mutant(
        "evidence_on_dropped_frames",
        "vista_train/data/dataset.py",
        "len(plan.times) < self.codec.view.count_of(sample.video):",
        "False:",
        "tests/data/test_dataset.py::test_evidence_is_seen_on_the_frames_that_are_left",
    ),
    Mutant(
        "needle_from_its_own_haystack",
        "vista_train/data/dataset.py",
        "if clip.path not in taken and",
        "if",
        "tests/data/test_dataset.py::test_distractors_may_be_missing_but_not_actors",
    ),
    Mutant(
        "patches_without_a_budget",
        "vista_train/data/deal.py",
        "np.array([math.inf, max_row_tokens, max_row_patches])",
        "np.array([math.inf, max_row_tokens, math.inf])",
        "tests/data/test_deal.py::test_patches_are_a_budget_of_their_own",
    ),
    Mutant(
        "micro_steps_under_one_ceiling",
        "vista_train/data/deal.py",
        "np.maximum(cost_MR[:, 0], high)",
        "np.full(micro_steps, high)",
        "tests/data/test_deal.py::test_a_mixed_step_is_dealt_as_evenly_as_the_token_cap_allows",
    ),
    Mutant(
        "exchange_into_a_full_row",
        "vista_train/data/deal.py",
        "(dear_GC3 <= self.most_3).all(axis=2) & (other_GC3 <= self.most_3).all(axis=2)",
        "(dear_GC3 <= self.most_3).all(axis=2)",
        "tests/data/test_deal.py::test_every_sample_is_dealt_once_within_the_budget",
    ),
    Mutant(
        "rows_of_samples_as_sorted",
        "vista_train/data/deal.py",
        "zip(order_N.tolist(), self.row_S.tolist(), strict=False)",
        "enumerate(self.row_S[: len(order_N)].tolist())",
        "tests/data/test_deal.py::test_every_sample_is_dealt_once_within_the_budget",
    ),
    Mutant(
        "dearest_rows_to_the_same_rank",
        "vista_train/data/deal.py",
        'np.argsort(so_far_W, kind="stable")',
        "np.arange(self.ranks)",
        "tests/data/test_deal.py::test_rows_of_like_cost_stand_side_by_side",
    ),
    Mutant(
        "unknown_key_ignored",
        "vista_train/sections.py",
        'extra="forbid"',
        'extra="ignore"',
        "tests/test_config.py::test_an_unknown_key_is_told_with_the_right_one",
    ),
    Mutant(
        "a_second_right_option",
        "vista_train/data/dataset.py",
        'taken = shown if role.relation == "caption_only" else {anchor.clip.path}',
        "taken = {anchor.clip.path}",
        "tests/data/test_casting.py::test_a_second_caption_of_a_file_that_is_shown_is_no_wrong_option",
    ),
    Mutant(
        "replay_forgotten_by_a_second_kill",
        "vista_train/data/ledger.py",
        "_rewrite(pending(path), later)",
        "_rewrite(pending(path), [])",
        "tests/training/test_checkpoint.py::test_a_replay_survives_a_kill_right_after_the_resume",
    ),
    Mutant(
        "lists_of_different_lengths",
        "vista_train/data/layouts.py",
        "        if len(set(lengths.values())) > 1:\n",
        "        if False:\n",
        "tests/data/test_reading.py::test_panda70m_has_a_row_a_video_and_lists_in_its_cells",
    ),
    Mutant(
        "held_out_by_the_row",
        "vista_train/data/manifest.py",
        "reading.takes(row[SOURCE])",
        "reading.takes(row[0])",
        "tests/data/test_reading.py::test_held_out_sources_are_whole_and_the_rest_is_all_else",
    ),
    Mutant(
        "the_held_out_are_trained_on",
        "vista_train/data/reading.py",
        '        return is_held_out == (self.part == "held_out")\n',
        '        return is_held_out or self.part == "train"\n',
        "tests/data/test_reading.py::test_held_out_sources_are_whole_and_the_rest_is_all_else",
    ),
    Mutant(
        "two_videos_in_one_conversation",
        "vista_train/data/layouts.py",
        "    if videos > 1:\n",
        "    if videos > 9:\n",
        "tests/data/test_reading.py::test_llava_and_sharegpt_conversations",
    ),
    Mutant(
        "any_of_the_files_of_a_name",
        "vista_train/data/tars.py",
        "            if len(keys) == 1:\n",
        "            if keys:\n",
        "tests/media/test_members.py::test_a_name_in_several_tars_says_which",
    ),
    Mutant(
        "words_of_the_plan_beside_pixels_of_its_replacement",
        "vista_train/preview/shown.py",
        "dataset.planned(position, encoded.attempt)",
        "dataset.planned(position)",
        "tests/preview/test_command.py::test_a_replaced_sample_is_shown_as_what_it_became",
    ),
    Mutant(
        "evidence_boxed_on_every_frame",
        "vista_train/preview/shown.py",
        "if time in evidence.span]",
        "if evidence.span]",
        "tests/preview/test_page.py::test_evidence_is_boxed_in_per_cent_on_the_frames_that_show_it",
    ),
    Mutant(
        "captions_are_markup",
        "vista_train/preview/document.py",
        "autoescape=True",
        "autoescape=False",
        "tests/preview/test_page.py::test_foreign_words_stay_words",
    ),
    Mutant(
        "any_script_may_run",
        "vista_train/preview/document.py",
        "script-src '{script_hash}'",
        "script-src 'unsafe-inline'",
        "tests/preview/test_page.py::test_only_its_own_style_and_script_may_run",
    ),
    Mutant(
        "another_step_is_drawn",
        "vista_train/preview/dealing.py",
        "first = position // budget.batch_samples * budget.batch_samples",
        "first = position",
        "tests/preview/test_dealing.py::test_a_step_is_dealt_as_training_deals_it",
    ),
)
