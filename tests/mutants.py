"""Plants bugs one at a time and checks that the test each names turns red: `python tests/mutants.py [name ...]`.

Each mutant is one exact replacement in one file. The working tree's tracked files are copied, changed, and only the
named test is run there. A mutant that survives, a replacement that no longer applies, or a test that is red without
the bug, is a failure of the suite: exit code 1.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).parents[1]
TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Mutant:
    """A bug, and the test that must catch it."""

    name: str
    file: str
    old: str
    new: str
    test: str


MUTANTS = (
    Mutant(
        "cross_sample_attention",
        "vista_train/models/tiny.py",
        "            use_cache=False,\n            **packing",
        "            use_cache=True,\n            **packing",
        "tests/training/test_step.py::test_packed_equals_one_sample_a_row",
    ),
    Mutant(
        "positions_not_restarting",
        "vista_train/data/collate.py",
        "torch.cat([empty, *(torch.arange(length) for length in lengths)])",
        "torch.arange(sum(lengths))",
        "tests/training/test_step.py::test_packed_equals_one_sample_a_row",
    ),
    Mutant(
        "mean_of_means",
        "vista_train/training/loop.py",
        "averaging_factor(self.accelerator) / max(1, labels)",
        "averaging_factor(self.accelerator) / max(1, row.num_labels) / len(rows)",
        "tests/training/test_step.py::test_micro_steps_order_and_empty_rows_change_nothing",
    ),
    Mutant(
        "missing_world_factor",
        "vista_train/training/loop.py",
        "return float(accelerator.num_processes)",
        "return 1.0",
        "tests/training/test_two_processes.py::test_world_size_and_rows_change_nothing",
    ),
    Mutant(
        "labels_counted_per_rank",
        "vista_train/training/loop.py",
        "labels = int(counts[0])",
        "labels = sum(row.num_labels for row in rows)",
        "tests/training/test_two_processes.py::test_world_size_and_rows_change_nothing",
    ),
    Mutant(
        "label_off_by_one",
        "vista_train/training/loss.py",
        "targets = labels_L[1:]",
        "targets = labels_L[:-1]",
        "tests/training/test_loss.py",
    ),
    Mutant(
        "last_checkpoint_deleted_before_the_new_one_is_published",
        "vista_train/training/checkpoint.py",
        "        publish(folder)\n        prune(folder.parent, keep)",
        "        prune(folder.parent, keep - 1)\n        publish(folder)",
        "tests/training/test_checkpoint.py::test_older_checkpoints_are_pruned_only_after_the_new_one_is_published",
    ),
    Mutant(
        "unfinished_checkpoint_counts",
        "vista_train/training/checkpoint.py",
        " and not (path / IN_PROGRESS).exists()]",
        "]",
        "tests/training/test_checkpoint.py",
    ),
    Mutant(
        "optimizer_not_restored",
        "vista_train/training/checkpoint.py",
        "            optimizer.state[parameter] = state\n",
        "",
        "tests/training/test_checkpoint.py::test_resumed_equals_uninterrupted_bit_by_bit",
    ),
    Mutant(
        "dropout_state_not_restored",
        "vista_train/training/checkpoint.py",
        '    torch.set_rng_state(state["cpu"])\n',
        "",
        "tests/training/test_checkpoint.py::test_resumed_equals_uninterrupted_bit_by_bit",
    ),
    Mutant(
        "loader_draws_from_the_global_generator",
        "vista_train/data/rows.py",
        "        generator=torch.Generator(),\n",
        "",
        "tests/training/test_checkpoint.py::test_resumed_equals_uninterrupted_bit_by_bit",
    ),
    Mutant(
        "schedule_restarts_on_resume",
        "vista_train/training/loop.py",
        "        self.step_number = state.step\n        self.failures",
        "        self.step_number = state.step\n        self.num_steps -= state.step\n        self.failures",
        "tests/training/test_checkpoint.py::test_resumed_equals_uninterrupted_bit_by_bit",
    ),
    Mutant(
        "losses_after_the_checkpoint_forgotten",
        "vista_train/training/loop.py",
        "    return ledger.known(",
        "    return [] and ledger.known(",
        "tests/training/test_checkpoint.py::test_what_was_lost_after_the_checkpoint_is_lost_again",
    ),
    Mutant(
        "frozen_part_trains",
        "vista_train/training/optimizer.py",
        "return self.lr if asked is True else float(asked)",
        "return self.lr",
        "tests/training/test_step.py::test_parts_that_train_move_and_frozen_ones_do_not",
    ),
    Mutant(
        "frozen_part_costs_gradients",
        "vista_train/training/optimizer.py",
        "parameter.requires_grad_(rate > 0)",
        "parameter.requires_grad_(True)",
        "tests/training/test_step.py::test_parts_that_train_move_and_frozen_ones_do_not",
    ),
    Mutant(
        "global_rng",
        "vista_train/augment/questions.py",
        "letter = int(rng.integers(len(LETTERS)))",
        "letter = int(np.random.randint(len(LETTERS)))",
        "tests/augment/test_contract.py::test_no_global_generator_is_touched",
    ),
    Mutant(
        "params_kept_on_self",
        "vista_train/augment/base.py",
        "self.apply(clips, self.draw(rng, clips, view))",
        'self.apply(clips, self.__dict__.setdefault("params", self.draw(rng, clips, view)))',
        "tests/augment/test_contract.py::test_an_augmentation_is_frozen_and_keeps_nothing",
    ),
    Mutant(
        "evidence_shifted_by_one_frame",
        "vista_train/augment/temporal.py",
        "Evidence(spans[i], placement",
        "Evidence(type(spans[i])(spans[i].start + Fraction(1, 30), spans[i].end + Fraction(1, 30)), placement",
        "tests/augment/test_contract.py::test_evidence_is_what_the_pixels_show_and_the_words_say",
    ),
    Mutant(
        "needle_between_the_sampled_frames",
        "vista_train/augment/placement.py",
        "low = max(Fraction(0), times[frame + min_visible - 1] - length)",
        "low = max(Fraction(0), times[frame + min_visible - 1] - 2 * length)",
        "tests/augment/test_placement.py::test_the_starts_that_show_a_needle_are_all_of_them",
    ),
    Mutant(
        "host_does_not_go_on",
        "vista_train/augment/temporal.py",
        'host.subclip(start, params["host_end"])), fit',
        'host.subclip(0, params["host_end"] - start)), fit',
        "tests/augment/test_placement.py::test_the_host_goes_on_behind_an_inserted_needle",
    ),
    Mutant(
        "grid_counts_columns_as_rows",
        "vista_train/augment/questions.py",
        "row, column = (index + 1 for",
        "column, row = (index + 1 for",
        "tests/augment/test_questions.py::test_row_and_column_count_from_one_at_the_top_left",
    ),
    Mutant(
        "asks_for_the_wrong_neighbour",
        "vista_train/augment/temporal.py",
        "wordings.EVENT_AFTER if known < asked",
        "wordings.EVENT_AFTER if known > asked",
        "tests/augment/test_questions.py::test_the_neighbour_asked_for_is_the_right_one",
    ),
    Mutant(
        "answer_among_the_wrong_options",
        "vista_train/augment/questions.py",
        'taken = {"", normal(asked.answer)}',
        'taken = {""}',
        "tests/augment/test_questions.py::test_without_three_wrong_answers_the_question_stays_open",
    ),
    Mutant(
        "right_letter_is_always_the_same",
        "vista_train/augment/questions.py",
        "letter = int(rng.integers(len(LETTERS)))",
        "letter = int(rng.integers(1))",
        "tests/augment/test_questions.py::test_letters_are_uniform_and_shares_kept",
    ),
    Mutant(
        "wrong_pts_rounding",
        "vista_train/video/decode/packets.py",
        "ticks = time // self.time_base",
        "ticks = round(time / self.time_base)",
        "tests/video/test_decode.py::test_frame_begins_exactly_on_its_time",
    ),
    Mutant(
        "edges_rounded_down",
        "vista_train/video/geometry.py",
        "(2 * edge + 1) // 2",
        "edge // 1",
        "tests/video/test_sampling.py::test_edges_are_rounded_halves_up_so_neighbours_meet",
    ),
    Mutant(
        "rotation_ignored",
        "vista_train/video/decode/pyav.py",
        "turns = round(frame.rotation / 90) % 4\n        size",
        "turns = 0\n        size",
        "tests/video/test_decode.py::test_pictures_are_turned_upright",
    ),
    Mutant(
        "inset_painted_under_its_base",
        "vista_train/video/render.py",
        "(*self.holes, self.rect.part(video.box).pixels())",
        "self.holes",
        "tests/video/test_render.py::test_an_inset_hides_its_base_and_bars_hide_it_too",
    ),
    Mutant(
        "path_leaves_the_root",
        "vista_train/video/decode/base.py",
        "if not full.is_relative_to(base):",
        "if not full.is_absolute():",
        "tests/video/test_render.py::test_a_path_that_leaves_the_root_is_refused",
    ),
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
        "losses_untold",
        "vista_train/data/collate.py",
        "tuple(failure for sample in samples for failure in sample.failures)",
        "()",
        "tests/data/test_collate.py::test_a_lost_sample_leaves_only_its_failures",
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
        "special_tokens_in_user_text",
        "vista_train/models/chat.py",
        "split_special_tokens=True",
        "split_special_tokens=False",
        "tests/models/test_chat.py::test_labels_of_random_hostile_conversations_decode_to_the_answers",
    ),
    Mutant(
        "end_token_not_learnt",
        "vista_train/models/chat.py",
        "add(closing, 1)",
        "add(closing)",
        "tests/models/test_chat.py::test_labels_of_random_hostile_conversations_decode_to_the_answers",
    ),
    Mutant(
        "frames_not_dropped_but_counted",
        "vista_train/models/tiny.py",
        "sample.video.frame_measure, room)",
        "sample.video.frame_measure)",
        "tests/models/test_tiny.py::test_frames_are_dropped_and_never_tokens",
    ),
    Mutant(
        "rank_without_frames_skips_the_vision_tower",
        "vista_train/models/tiny.py",
        "frames_TCHW = frames_TCHW.new_zeros((1, 3, side, side))",
        "return model.get_input_embeddings()(ids_1L)[0, : row.num_tokens]",
        "tests/models/test_tiny.py::test_a_row_without_labels_gives_every_part_a_zero_gradient",
    ),
    Mutant(
        "pooling_before_the_projector",
        "vista_train/models/tiny.py",
        "        projected_TPD = super().forward(image_features)",
        "        side = math.isqrt(image_features.shape[1])\n"
        "        pooled = functional.avg_pool2d(image_features.transpose(1, 2).unflatten(2, (side, side)), 2)\n"
        "        return super().forward(pooled.flatten(2).transpose(1, 2))\n"
        "        projected_TPD = super().forward(image_features)",
        "tests/models/test_tiny.py::test_the_forward_pass_is_longvas",
    ),
    Mutant(
        "last_picture_frozen_past_the_end",
        "vista_train/video/decode/packets.py",
        "if latest > end + OVERRUN_SECONDS:",
        "if False:",
        "tests/video/test_decode.py::test_a_file_cut_short_without_a_count_in_its_header_is_refused_where_it_lacks",
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
    Mutant(
        "kernel_named_by_a_checkpoint",
        "vista_train/models/tiny.py",
        '        part._attn_implementation = "eager"\n',
        "        pass\n",
        "tests/models/test_tiny.py::test_nothing_in_a_checkpoints_folder_is_run_or_fetched",
    ),
)


def run(mutant: Mutant | None, test: str) -> tuple[bool, str]:
    """Whether the test passes in a copy with the bug in it, and its last line."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder) / "repo"
        _copy_tracked(copy)
        if mutant is not None:
            path = copy / mutant.file
            text = path.read_text(encoding="utf-8")
            if text.count(mutant.old) != 1:
                return True, f"does not apply: found {text.count(mutant.old)} times in {mutant.file}"
            path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout", "200", test],
            cwd=copy,
            env={**os.environ, **_environment(copy)},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    summary = [line for line in done.stdout.splitlines() if re.search(r"\d+ (passed|failed|error|skipped)", line)]
    last = summary[-1].strip("= ") if summary else f"pytest ended with {done.returncode}"
    if done.returncode not in (0, 1):
        return True, f"not run: {last}"
    return done.returncode == 0, last


def _environment(copy: Path) -> dict[str, str]:
    shared = os.environ.get("VISTA_TRAIN_SHARED", str(REPO.parent / "shared"))
    return {
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "VISTA_TRAIN_SHARED": shared,
    }


def _copy_tracked(target: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (REPO / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPO / name, target / name)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the table; 0 if every bug was caught, and every test is green without one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="mutants to run; default, all")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args(argv)
    unknown = set(arguments.names) - {mutant.name for mutant in MUTANTS}
    if unknown:
        parser.error(f"no mutant is called {sorted(unknown)[0]}")
    chosen = [mutant for mutant in MUTANTS if not arguments.names or mutant.name in arguments.names]
    began = time.monotonic()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        tests = list(dict.fromkeys(mutant.test for mutant in chosen))
        green = dict(zip(tests, pool.map(lambda test: run(None, test), tests), strict=True))
        results = list(pool.map(lambda mutant: run(mutant, mutant.test), chosen))
    caught = 0
    for mutant, (passed, line) in zip(chosen, results, strict=True):
        is_caught = not passed and green[mutant.test][0]
        caught += is_caught
        verdict = "caught" if is_caught else "SURVIVED" if passed else "RED WITHOUT IT"
        print(f"{verdict:14}  {mutant.name:58}  {mutant.test}  [{line}]")
    print(f"{caught} of {len(chosen)} caught in {time.monotonic() - began:.0f} s")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
