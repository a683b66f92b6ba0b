"""Versions, known holes, and what protection this machine can give. Exit code 1 where something is bad."""

from __future__ import annotations

import argparse

from vista_train.doctor import report


def describe(parser: argparse.ArgumentParser) -> None:
    """It asks nothing."""


def run(arguments: argparse.Namespace) -> int:
    told, num_warnings = report()
    print(told)
    return 1 if num_warnings else 0
