"""See what the model will see, and what it will be told: a sheet of pictures, or a page that also tells of the mix."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from vista_train.config import Recipe, load_recipe
from vista_train.data import ledger
from vista_train.data.dataset import VistaDataset
from vista_train.preview.contact import sheet, stacked
from vista_train.preview.dealing import dealt, step_of
from vista_train.preview.document import About, Overview, page
from vista_train.preview.mix import mix_view
from vista_train.preview.plans import planned
from vista_train.preview.shown import Lost, Shown, find, look
from vista_train.redact import redacted
from vista_train.video.decode import MediaError


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a YAML recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="recipe keys to change")
    parser.add_argument("--position", type=int, default=0, help="the (first) training position to show")
    parser.add_argument("--count", type=int, default=1, help="how many positions to show")
    parser.add_argument("--out", type=Path, default="preview.png", help="a .png, or an .html page of many")
    parser.add_argument(
        "--plan", type=int, default=500, help="an .html page also tells of so many positions of the mix, undecoded"
    )
    parser.add_argument(
        "--ranks", type=int, default=4, help="... and how the step of the first position is dealt to so many ranks"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the sheets, or the page."""
    out = arguments.out
    if out.suffix not in (".png", ".html"):
        raise ValueError(f"--out is {out}; it must end in .png or .html")
    if arguments.count < 1 or arguments.position < 0:
        raise ValueError(f"--count is {arguments.count}, --position {arguments.position}; they must be 1, 0 or more")
    if arguments.plan < 0 or arguments.ranks < 1:
        raise ValueError(f"--plan is {arguments.plan}, --ranks {arguments.ranks}; they must be 0, 1 or more")
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    dataset = recipe.make_dataset(recipe.make_family().codec, ledger.read(Path(recipe.output) / ledger.NAME))
    positions = range(arguments.position, arguments.position + arguments.count)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".html":
        told = _write_page(arguments, recipe, dataset, positions)
    else:
        view = recipe.make_view()
        stacked([sheet(look(dataset, at), view) for at in _shown(positions)]).save(out)
        told = ""
    print(f"{len(positions)} samples in {out}{told}")
    return 0


def _write_page(arguments: argparse.Namespace, recipe: Recipe, dataset: VistaDataset, positions: range) -> str:
    """Write the page; says how many samples on it were lost."""
    budget = recipe.make_loop().budget
    plans = planned(dataset, [*range(arguments.plan), *step_of(positions[0], budget)])
    overview = Overview(
        mix_view([plans[at] for at in range(arguments.plan)], dataset.mix) if arguments.plan else None,
        dealt(plans, positions[0], budget, arguments.ranks),
    )
    about = About(arguments.recipe, tuple(arguments.overrides), recipe.family.name, recipe.seed, positions)
    lost: list[int] = []

    def everyone() -> Iterator[Shown | Lost]:
        for at in _shown(positions):
            found = find(dataset, at)
            if isinstance(found, Lost):
                lost.append(at)
            yield found

    text = page(everyone(), recipe.make_view(), about, overview)
    # Words of strangers may hold half a character.
    arguments.out.write_text(text, encoding="utf-8", errors="replace")
    return f", {len(lost)} of them lost" if lost else ""


def _shown(positions: range) -> Iterator[int]:
    return iter(tqdm(positions, "decoding", unit="sample", delay=2, disable=None))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Exit code 2 and one sentence for what the user can mend."""
    parser = argparse.ArgumentParser(prog="vista_train.preview", description=__doc__)
    describe(parser)
    try:
        return run(parser.parse_intermixed_args(argv))
    except (ValueError, MediaError) as error:
        print(f"vista_train: {redacted(str(error))}", file=sys.stderr)
        return 2
