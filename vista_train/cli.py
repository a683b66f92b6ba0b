"""`vista-train`: one command line for all that the library does."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "train": ("vista_train.train", "train what a recipe says"),
    "preview": ("vista_train.preview", "see what the model will see, and what it will be told"),
    "import": ("vista_train.commands.importing", "write a published data set, or a folder of videos, as a manifest"),
    "check": ("vista_train.commands.check", "look into every file that a manifest names, and clean it"),
    "questions": ("vista_train.commands.questions", "have a language model write questions from captions"),
    "proxies": ("vista_train.commands.proxies", "make small, quick versions of a manifest's files"),
    "export": ("vista_train.commands.export", "write composed videos and their questions to disk"),
    "sweep": ("vista_train.commands.sweep", "try learning rates in short runs on the very same samples"),
    "ledger": ("vista_train.commands.ledger", "what a run has lost, by reason and source"),
    "merge": ("vista_train.commands.merge", "make a plain checkpoint of one that a run wrote, adapters and all"),
    "evaluate": ("vista_train.commands.evaluate", "what a model understands: needle heat maps and benchmarks"),
    "serve": ("vista_train.commands.serve", "answer questions over HTTP, for lmms-eval in an environment of its own"),
    "schema": ("vista_train.commands.schema", "print the JSON schema of a recipe"),
    "doctor": ("vista_train.commands.doctor", "versions, known holes, and what protection this machine can give"),
}
"""By name: the module that does it, with `describe(parser)` and `run(arguments)`, and what it does."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Exit code 0 where all is well, 2 and one sentence for what the user can mend, 130 where the
    user stopped it; what 1 says, a command's own help tells."""
    listed = "\n".join(f"  {name:<10}{told}" for name, (_, told) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="vista-train",
        description=__doc__,
        epilog=f"commands:\n{listed}\n\n`vista-train COMMAND --help` tells more of one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="command", help="what to do, see below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="what the command takes")
    chosen = parser.parse_args(argv)
    # Only now, and only the one: most of them bring torch along.
    module = importlib.import_module(COMMANDS[chosen.command][0])
    described = argparse.ArgumentParser(prog=f"vista-train {chosen.command}", description=module.__doc__)
    module.describe(described)
    # Overrides may stand before options and behind them.
    arguments = described.parse_intermixed_args(chosen.arguments)
    from vista_train.data.check import Interrupted
    from vista_train.redact import redacted
    from vista_train.video.decode import MediaError

    try:
        code: int = module.run(arguments)
        return code
    except (Interrupted, KeyboardInterrupt) as error:
        print(f"vista_train: {error or 'interrupted'}", file=sys.stderr)
        return 130
    except (ValueError, MediaError) as error:
        print(f"vista_train: {redacted(str(error))}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
