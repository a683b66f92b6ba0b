"""Bugs in data and recipes."""

from __future__ import annotations

from planted import Mutant

MUTANTS = (
    Mutant(
        "video_swapped_under_its_question",
        "vista_train/data/dataset.py",
        "return self._encode(composed, position, attempt, tuple(failures))",
        "import dataclasses\n"
        "                words = dataclasses.replace(composed.sample, messages=self.sample(position).messages)\n"
        "                return self._encode(\n"
        "                    Composed(words, self.codec.plan(words)), position, attempt, tuple(failures)\n"
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
        "unknown_key_ignored",
        "vista_train/sections.py",
        'extra="forbid"',
        'extra="ignore"',
        "tests/test_config.py::test_an_unknown_key_is_told_with_the_right_one",
    ),
    Mutant(
        "a_second_right_option",
        "vista_train/data/dataset.py",
        'taken = shown if role.relation == "caption_only" else {anchor.path}',
        "taken = {anchor.path}",
        "tests/data/test_casting.py::test_a_second_caption_of_a_file_that_is_shown_is_no_wrong_option",
    ),
    Mutant(
        "replay_forgotten_by_a_second_kill",
        "vista_train/data/ledger.py",
        "_rewrite(pending(path), later)",
        "_rewrite(pending(path), [])",
        "tests/training/test_checkpoint.py::test_a_replay_survives_a_kill_right_after_the_resume",
    ),
)
