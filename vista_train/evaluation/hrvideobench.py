"""HRVideoBench in its published layout: 200 questions on videos of 1080p and more, counted by category."""

from __future__ import annotations

from vista_train.evaluation.mapping import ColumnMapping

HRVIDEOBENCH = ColumnMapping(
    name="HRVideoBench",
    video="{path}",
    question="qa.question",
    options="mcq.options",
    answer="mcq.correct_option",
    groups=("category", "qa_type"),
    folder_fps=25.0,
)
"""TIGER-Lab/HRVideoBench, hrvideobench.jsonl: `path` is an mp4 or a folder of frame_<i>.jpg, `mcq.options` bring their
letters along, `mcq.correct_option` begins with the right one. Prompt and letter rule are those of VISTA's loader."""
