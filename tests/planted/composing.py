"""Bugs in augmentations and video."""

from __future__ import annotations

from planted import Mutant

MUTANTS = (
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
        "frames_that_begin_too_late",
        "vista_train/augment/placement.py",
        "bisect_left(times, length + latest) - (min_visible - 1)",
        "bisect_left(times, length + latest)",
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
        "min(first + above * den // (below * num), LAST_TICK)",
        "min(first + round(above * den / (below * num)), LAST_TICK)",
        "tests/video/test_decode.py::test_frame_begins_exactly_on_its_time",
    ),
    Mutant(
        "edges_rounded_down",
        "vista_train/video/geometry.py",
        "(2 * edge.numerator + edge.denominator) // (2 * edge.denominator)",
        "edge.numerator // edge.denominator",
        "tests/video/test_sampling.py::test_edges_are_rounded_halves_up_so_neighbours_meet",
    ),
    Mutant(
        "rotation_ignored",
        "vista_train/video/decode/pyav.py",
        "turns = self._turns or round(frame.rotation / 90) % 4\n        self",
        "turns = 0\n        self",
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
        "last_picture_frozen_past_the_end",
        "vista_train/video/decode/packets.py",
        "if latest > end + OVERRUN_SECONDS:",
        "if False:",
        "tests/video/test_decode.py::test_a_file_cut_short_without_a_count_in_its_header_is_refused_where_it_lacks",
    ),
    Mutant(
        "tiles_over_their_budget",
        "vista_train/video/sampling.py",
        "self.tiles // (frames or self.frames)",
        "-(-self.tiles // (frames or self.frames))",
        "tests/video/test_sampling.py",
    ),
)
