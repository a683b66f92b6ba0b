"""Bugs in the step, the loop and checkpoints."""

from __future__ import annotations

from planted import Mutant

HANG = "tests/training/test_no_hang.py::test_no_step_hangs_and_each_is_that_of_one_process[zero3]"
TOGETHER = "tests/data/test_planning_together.py::"

MUTANTS = (
    Mutant(
        "mean_of_means",
        "vista_train/training/loop.py",
        "self.accelerator.backward(loss_sum * factor)",
        "self.accelerator.backward(loss_sum / max(1, row.num_labels) / len(rows))",
        "tests/training/test_step.py::test_micro_steps_order_and_empty_rows_change_nothing",
    ),
    Mutant(
        "missing_world_factor",
        "vista_train/training/engine.py",
        "return float(self.accelerator.num_processes)",
        "return 1.0",
        "tests/training/test_two_processes.py::test_world_size_and_rows_change_nothing",
    ),
    Mutant(
        "labels_counted_per_rank",
        "vista_train/training/loop.py",
        "factor = self.engine.averaging_factor / max(1, agreed.labels)",
        "factor = self.engine.averaging_factor / max(1, sum(row.num_labels for row in rows))",
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
        "vista_train/training/saver.py",
        "        self._agree(pending.folder, lambda: checkpoint.publish(pending.folder, pending.sizes))\n",
        "        for old in checkpoint.published(pending.folder.parent)[:-1]:\n"
        "            checkpoint.shutil.rmtree(old)\n"
        "        self._agree(pending.folder, lambda: checkpoint.publish(pending.folder, pending.sizes))\n",
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
        "vista_train/training/engine.py",
        "            self.optimizer.state[parameter] = state\n",
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
        "        self.step_number = state.step\n        self.tolerance",
        "        self.step_number = state.step\n        self.num_steps -= state.step\n        self.tolerance",
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
        "parameter.requires_grad_(trains)",
        "parameter.requires_grad_(True)",
        "tests/training/test_step.py::test_parts_that_train_move_and_frozen_ones_do_not",
    ),
    Mutant(
        "base_trains_beside_its_adapters",
        "vista_train/training/optimizer.py",
        "(is_adapter(name) or not adapters_alone)",
        "True",
        "tests/models/test_adapters.py::test_a_step_moves_adapters_alone_and_merging_keeps_the_output",
    ),
    Mutant(
        "micro_steps_step_each",
        "vista_train/training/loop.py",
        "is_last=micro == len(rows) - 1",
        "is_last=True",
        "tests/training/test_engines.py::test_every_engine_takes_the_step_that_one_process_takes[zero2-micro_3]",
    ),
    Mutant(
        "zero_clips_by_its_own_setting",
        "vista_train/training/zero.py",
        '        config["gradient_clipping"] = clip_norm\n',
        "",
        "tests/training/test_engines.py::test_every_engine_goes_on_from_another_and_another_from_it[zero1]",
    ),
    Mutant(
        "shards_restored_from_the_first_value_on",
        "vista_train/training/zero.py",
        "copy_(saved.find(key, name, start, count))",
        "copy_(saved.find(key, name, 0, count))",
        "tests/training/test_engines.py::test_every_engine_resumes_bit_by_bit[zero3]",
    ),
    Mutant(
        "rows_of_the_first_shard_restored_everywhere",
        "vista_train/training/fsdp.py",
        "local.copy_(saved.find(key, name, start, count).view(local.shape))",
        "local.copy_(saved.find(key, name, 0, count).view(local.shape))",
        "tests/training/test_engines.py::test_every_engine_resumes_bit_by_bit[fsdp2]",
    ),
    Mutant(
        "rounded_weights_are_updated",
        "vista_train/training/zero.py",
        "        self._keep_exact(exact)\n",
        "",
        "tests/training/test_engines.py::test_exact_weights_that_others_saved_are_not_rounded",
    ),
    Mutant(
        "a_stranger_s_signal_ends_a_worker",
        "vista_train/data/rows.py",
        "    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n",
        "",
        "tests/data/test_rows.py::test_a_worker_outlives_a_signal_that_its_rank_did_not_send",
    ),
    Mutant(
        "background_save_without_copies",
        "vista_train/training/pieces.py",
        'piece.values_N.to("cpu", copy=copy)',
        'piece.values_N.to("cpu")',
        "tests/training/test_checkpoint.py::test_saving_in_the_background_changes_nothing",
    ),
    Mutant(
        "published_without_a_look_at_all_parts",
        "vista_train/training/checkpoint.py",
        "    while missing := _missing(folder, sizes):",
        "    while missing := []:",
        "tests/training/test_checkpoint.py::test_a_checkpoint_without_a_rank_s_part_is_not_published",
    ),
    Mutant(
        "head_calls_not_agreed",
        "vista_train/training/report.py",
        "(max(head), max(tower))",
        "(min(head), max(tower))",
        HANG,
    ),
    Mutant(
        "tower_passes_not_agreed",
        "vista_train/training/report.py",
        "(max(head), max(tower))",
        "(max(head), min(tower))",
        HANG,
    ),
    Mutant(
        "idle_passes_dropped",
        "vista_train/models/hub_family.py",
        "lacking = tower_passes - self.tower_passes(full)",
        "lacking = 0",
        HANG,
    ),
    Mutant(
        "idle_passes_leave_a_gradient",
        "vista_train/models/hub_family.py",
        "hidden_LD + 0 * idle.to(hidden_LD.dtype)",
        "hidden_LD + 1e-3 * idle.to(hidden_LD.dtype)",
        HANG,
    ),
    Mutant(
        "evaluation_does_not_agree_on_calls",
        "vista_train/training/loop.py",
        "total += float(self.engine.module(row.to(self.accelerator.device), *calls))",
        "total += float(self.engine.module(row.to(self.accelerator.device), calls[0]))",
        HANG,
    ),
    Mutant(
        "deal_not_compared_between_ranks",
        "vista_train/data/rows.py",
        "others = np.flatnonzero(heard_R != heard_R[0])",
        "others = np.flatnonzero(heard_R != heard_R)",
        TOGETHER + "test_a_rank_that_deals_otherwise_is_named_on_all",
    ),
    Mutant(
        "positions_not_compared_between_ranks",
        "vista_train/data/rows.py",
        "wrong_N = np.flatnonzero(table_N4[:, 0] != np.arange(first, first + size))",
        "wrong_N = np.flatnonzero(table_N4[:, 0] != table_N4[:, 0])",
        TOGETHER + "test_a_rank_at_another_step_is_named_on_all",
    ),
    Mutant(
        "every_rank_plans_all_samples",
        "vista_train/data/rows.py",
        "own = range(first + self.rank, first + size, self.ranks) if others else",
        "[self.dataset.plan(p) for p in range(first, first + size)]\n"
        "        own = range(first + self.rank, first + size, self.ranks) if others else",
        TOGETHER + "test_rows_are_those_of_ranks_that_plan_everything_and_each_plans_its_share",
    ),
    Mutant(
        "unlike_numbers_of_rows_go_on",
        "vista_train/training/report.py",
        "if len(set(counts)) > 1:",
        "if not counts:",
        "tests/training/test_ranks.py::test_ranks_with_unlike_numbers_of_rows_are_named_with_their_samples",
    ),
    Mutant(
        "published_before_the_other_ranks_wrote",
        "vista_train/training/saver.py",
        "        self._raise(pending.folder, pending.written.exception())\n"
        "        self._agree(pending.folder, lambda: checkpoint.publish(pending.folder, pending.sizes))\n",
        "        self._agree(pending.folder, lambda: (pending.folder / checkpoint.IN_PROGRESS).unlink())\n",
        "tests/training/test_kills.py::test_killed_inside_a_save_and_within_a_step",
    ),
    Mutant(
        "log_not_cut_back",
        "vista_train/training/journal.py",
        "if _step_of(line) <= self.first_step]",
        "if _step_of(line) < float('inf')]",
        "tests/training/test_kills.py::test_killed_inside_a_save_and_within_a_step",
    ),
    Mutant(
        "lost_rank_in_backward_not_told",
        "vista_train/training/loop.py",
        "            gone = lost(error)\n            if gone is None:\n                raise\n"
        "            raise gone from error\n        finally:",
        "            raise\n        finally:",
        "tests/training/test_machines.py::test_a_rank_left_alone_in_an_exchange_says_so",
    ),
)
