"""Have a language model write questions about a manifest's clips, from their captions.

Exit code 1 where replies were rejected, or something was left when the budget was reached or the endpoint was gone.
"""

from __future__ import annotations

import argparse
import json

from vista_train.synthesis.budget import Prices
from vista_train.synthesis.endpoint import Connection
from vista_train.synthesis.pace import Pace
from vista_train.synthesis.questions import ask_questions
from vista_train.synthesis.tasks import KINDS, Asking


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", help="a JSONL manifest; of its clips only the captions are looked at")
    parser.add_argument("--out", required=True, help="the manifest to write: the same lines, with more in `qa`")
    parser.add_argument("--work", help="where answers are kept as they come (default: <out>.work)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="what to ask for (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=3, help="the most needle questions about a clip (default: 3)")
    parser.add_argument("--limit", type=int, help="only the first so many clips")
    parser.add_argument("--retry", action="store_true", help="ask again for what was rejected in a run before")
    parser.add_argument("--json", action="store_true", help="print what came of it as one JSON object")
    parser.add_argument("--cache", help="where indexes are kept (default: $VISTA_TRAIN_CACHE or ~/.cache/vista_train)")
    rows = parser.add_argument_group("rows of clips, for story and order; as in the recipe")
    rows.add_argument("--min-seconds", type=float, default=30.0, help="joined until longer than this (default: 30)")
    rows.add_argument("--max-gap", type=float, default=5.0, help="seconds between clips at most (default: 5)")
    rows.add_argument("--max-clips", type=int, default=8, help="the most clips to join (default: 8)")
    rows.add_argument("--overlapping", action="store_true", help="one row for each clip, not one after another")
    asked = parser.add_argument_group("the model")
    asked.add_argument("--model", required=True, help="its name at the endpoint")
    asked.add_argument("--base-url", default="https://api.openai.com/v1", help="the endpoint (default: %(default)s)")
    asked.add_argument("--api-key-env", help="the environment variable with the key (default: OPENAI_API_KEY)")
    asked.add_argument("--temperature", type=float, default=0.7, help="(default: %(default)s)")
    asked.add_argument("--reply-tokens", type=int, default=1024, help="the most tokens of a reply (default: 1024)")
    asked.add_argument(
        "--reply-tokens-name",
        choices=("max_tokens", "max_completion_tokens"),
        default="max_tokens",
        help="what the endpoint calls that (default: %(default)s)",
    )
    asked.add_argument("--timeout", type=float, default=60.0, help="seconds for one request (default: 60)")
    pace = parser.add_argument_group("how fast, and for how much")
    pace.add_argument("--workers", type=int, default=8, help="requests under way at a time (default: 8)")
    pace.add_argument("--requests-per-minute", type=float)
    pace.add_argument("--tokens-per-minute", type=float)
    pace.add_argument("--budget", type=float, help="dollars, for all runs with the same --work together")
    pace.add_argument("--price-in", type=float, default=0.0, help="dollars for a million tokens sent")
    pace.add_argument("--price-out", type=float, default=0.0, help="dollars for a million tokens received")


def run(arguments: argparse.Namespace) -> int:
    outcome = ask_questions(
        arguments.manifest,
        Connection(
            arguments.model,
            arguments.base_url,
            arguments.temperature,
            arguments.timeout,
            arguments.reply_tokens,
            arguments.reply_tokens_name,
            arguments.api_key_env,
        ),
        arguments.out,
        Asking(
            tuple(filter(None, arguments.kinds.split(","))),
            arguments.pairs,
            arguments.min_seconds,
            arguments.max_gap,
            arguments.max_clips,
            arguments.overlapping,
            arguments.limit,
        ),
        Prices(arguments.price_in, arguments.price_out),
        arguments.budget,
        arguments.workers,
        Pace(arguments.requests_per_minute, arguments.tokens_per_minute),
        work=arguments.work,
        retry=arguments.retry,
        cache=arguments.cache,
    )
    print(json.dumps(outcome.as_json()) if arguments.json else outcome)
    return 1 if outcome.rejected or outcome.left else 0
