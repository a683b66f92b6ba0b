"""The shape of the house: who imports whom, how long and deep things are, and that the README tells the truth."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vista_train.augment import REGISTRY
from vista_train.config import load_recipe, parse_recipe

REPO = Path(__file__).parents[1]
PACKAGE = REPO / "vista_train"
README = REPO / "README.md"

LEVELS = {
    "": 0,
    "machine": 0,
    "sections": 0,
    "plain_yaml": 1,
    "redact": 0,
    "video": 1,
    "types": 2,
    "augment": 3,
    "data": 4,
    "models": 4,
    "training": 5,
    "synthesis": 5,
    "evaluation": 5,
    # Its sections are made of the settings of all rooms; nothing but the commands may know it.
    "config": 6,
    "publishing": 7,
    "train": 8,
    "preview": 8,
    "merge": 8,
    "sweep": 8,
    "doctor": 8,
    "commands": 9,
    "cli": 10,
}
"""A module imports from rooms of a lower level, and from its own."""
CONFINED = {
    "transformers": ("models/",),
    "peft": ("models/",),
    "av": ("video/decode/",),
    "decord": ("video/decode/",),
    "torchcodec": ("video/decode/",),
    "accelerate": ("training/", "train.py"),
    "deepspeed": ("training/", "train.py"),
    "torch.distributed": ("training/", "train.py"),
    "yaml": ("plain_yaml.py",),
    "openai": ("synthesis/endpoint.py",),
    "huggingface_hub": ("models/", "publishing/repository.py"),
    "pydantic": ("config.py", "sections.py"),
}
"""Libraries, and the only places that may import them."""
REGISTRIES = {"REGISTRY", "FAMILIES"}
CHANGERS = {"append", "extend", "insert", "add", "update", "setdefault", "pop", "popitem", "remove", "clear", "discard"}
NUMPY_RANDOM = {"Generator", "Philox", "BitGenerator", "SeedSequence", "default_rng"}
TOP_FOLDERS = {"vista_train", "recipes", "ds_configs", "scripts", "tests"}
TOP_FILES = {"setup.py", "requirements.txt", "README.md", "LICENSE"}
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match, ast.AsyncFor, ast.AsyncWith)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def sources(*folders: Path) -> dict[str, ast.Module]:
    """Every module under the folders, by its path in the repository."""
    paths = sorted(path for folder in folders for path in folder.rglob("*.py"))
    return {path.relative_to(REPO).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


PACKAGE_SOURCES = sources(PACKAGE)
ALL_SOURCES = sources(PACKAGE, REPO / "scripts", REPO / "tests")


def room_of(module: str) -> str:
    """The room of a module, named like `vista_train.data.deal`."""
    return module.partition(".")[2].partition(".")[0]


def module_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports_of(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a module imports, wherever in it."""
    package = module_of(path).split(".") if path.endswith("__init__.py") else module_of(path).split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.distributed":
            yield node.lineno, "torch.distributed"


def functions_of(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, FUNCTIONS))


def test_there_is_something_to_look_at():
    assert len(PACKAGE_SOURCES) > 30
    assert {room_of(module_of(path)) for path in PACKAGE_SOURCES} <= set(LEVELS), "a new room needs a level"


def test_a_module_imports_only_from_below():
    wrong = []
    for path, tree in PACKAGE_SOURCES.items():
        room = room_of(module_of(path))
        for line, name in imports_of(path, tree):
            other = room_of(name)
            inside = name.split(".")[0] == "vista_train" and other in LEVELS
            if inside and other != room and LEVELS[other] >= LEVELS[room]:
                wrong.append(f"{path}:{line} ({room}, level {LEVELS[room]}) imports {name} (level {LEVELS[other]})")
    assert not wrong, "\n".join(wrong)


def test_libraries_stay_where_they_belong():
    wrong, used = [], set()
    for path, tree in PACKAGE_SOURCES.items():
        inside = path.removeprefix("vista_train/")
        for line, name in imports_of(path, tree):
            for library, places in CONFINED.items():
                if f"{name}.".startswith(f"{library}."):
                    used.add(library)
                    if not inside.startswith(places):
                        wrong.append(f"{path}:{line} imports {name}, which belongs in {' or '.join(places)}")
    assert not wrong, "\n".join(wrong)
    assert used >= {"transformers", "av", "accelerate", "torch.distributed", "yaml"}


def test_files_are_short():
    for path in ALL_SOURCES:
        lines = len((REPO / path).read_text(encoding="utf-8").splitlines())
        assert lines <= 450, f"{path} has {lines} lines; 450 are the most, about 300 are right"
        if lines > 300 and path in PACKAGE_SOURCES:
            warnings.warn(f"{path} has {lines} lines; about 300 are right", stacklevel=1)


def test_functions_are_short():
    for path, tree in PACKAGE_SOURCES.items():
        for function in functions_of(tree):
            lines = function.end_lineno - function.lineno + 1
            place = f"{path}:{function.lineno}: {function.name} has {lines} lines"
            assert lines <= 90, f"{place}; 90 are the most, about 60 are right"
            if lines > 60:
                warnings.warn(f"{place}; about 60 are right", stacklevel=1)


def depth_of(node: ast.AST, depth: int = 0) -> int:
    """How deep blocks stand in one another below a node; `elif` stands beside its `if`, a function begins anew."""
    deepest = depth
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FUNCTIONS):
            continue
        is_elif = isinstance(child, ast.If) and isinstance(node, ast.If) and child.col_offset == node.col_offset
        deeper = isinstance(child, BLOCKS) and not (is_elif and node.orelse == [child])
        deepest = max(deepest, depth_of(child, depth + deeper))
    return deepest


def test_blocks_are_not_deep():
    for path, tree in PACKAGE_SOURCES.items():
        for function in functions_of(tree):
            depth = depth_of(function)
            assert depth < 5, f"{path}:{function.lineno}: {function.name} has blocks {depth} deep"


def test_depth_is_measured():
    lines = "def f():", " if a:", "  pass", " elif b:", "  for c in d:", "   pass", " else:", "  if e:", "   while g:"
    (function,) = ast.parse("\n".join([*lines, "    pass"])).body
    assert depth_of(function) == 3


def bases_of(trees: dict[str, ast.Module]) -> dict[str, list[str]]:
    """The bases of every class, by name."""
    return {
        node.name: [ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases]
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }


def too_deep(bases: dict[str, list[str]]) -> list[str]:
    """Classes of ours that inherit from one of ours that inherits from one of ours; errors and recipes may."""

    def stems_from(name: str, root: str) -> bool:
        return name == root or any(stems_from(parent, root) for parent in bases.get(name, []))

    return [
        f"{name}({parent}({grandparent}))"
        for name, parents in bases.items()
        for parent in parents
        for grandparent in bases.get(parent, [])
        if grandparent in bases and not any(stems_from(name, root) for root in ("Exception", "Protocol", "BaseModel"))
    ]


def test_inheritance_is_one_level_deep():
    assert too_deep({"A": [], "B": ["A"], "C": ["B"]}) == ["C(B(A))"]
    assert too_deep({"A": ["Exception"], "B": ["A"], "C": ["B"]}) == []
    bases = bases_of(PACKAGE_SOURCES)
    assert "Augment" in bases["TemporalNeedle"]
    assert too_deep(bases) == []


def test_no_module_is_a_drawer_for_odds_and_ends():
    stems = {Path(path).stem for path in ALL_SOURCES}
    assert not stems & {"utils", "util", "helpers", "helper", "common", "misc"}


def test_every_module_says_what_it_is_for():
    wrong = [path for path, tree in ALL_SOURCES.items() if tree.body and not ast.get_docstring(tree)]
    assert not wrong, f"no docstring: {', '.join(wrong)}"


def places(judge: Callable[[ast.AST], bool]) -> list[str]:
    """In which modules of the package something stands, each as often as it does."""
    return [path for path, tree in PACKAGE_SOURCES.items() for node in ast.walk(tree) if judge(node)]


def catches_everything(node: ast.AST) -> bool:
    if not isinstance(node, ast.ExceptHandler):
        return False
    return node.type is None or bool(re.search(r"\b(Base)?Exception\b", ast.unparse(node.type)))


def test_only_what_is_known_is_caught():
    assert catches_everything(ast.parse("try:\n a\nexcept:\n b").body[0].handlers[0])
    assert catches_everything(ast.parse("try:\n a\nexcept (A, Exception):\n b").body[0].handlers[0])
    assert places(catches_everything) == []


def draws_globally(node: ast.AST) -> bool:
    """Whether a node seeds or draws from a generator that everybody shares, or imports the module that has one."""
    if isinstance(node, ast.Import):
        return any(alias.name == "random" for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return node.module == "random"
    if not isinstance(node, ast.Attribute):
        return False
    name = ast.unparse(node)
    numpy = re.fullmatch(r"(np|numpy)\.random\.(\w+)", name)
    torch = re.fullmatch(r"torch\.((cuda|random)\.)?(manual_seed(_all)?|seed|rand|randn|randint|randperm)", name)
    return bool(torch) or (bool(numpy) and numpy[2] not in NUMPY_RANDOM)


def test_nothing_draws_from_a_global_generator():
    wrong = "import random", "from random import choice", "np.random.rand()", "numpy.random.seed(1)", "torch.seed()"
    assert all(any(map(draws_globally, ast.walk(ast.parse(text)))) for text in wrong)
    right = "np.random.Generator(np.random.Philox(key=1)).random()", "torch.Generator().manual_seed(0)"
    assert not any(draws_globally(node) for text in right for node in ast.walk(ast.parse(text)))
    # Dropout can draw from no other: a Trainer seeds it, once, when it is made.
    assert places(draws_globally) == ["vista_train/training/loop.py"]


def test_nobody_asks_whether_an_object_has_something():
    assert places(lambda node: isinstance(node, ast.Call) and ast.unparse(node.func) == "hasattr") == []


def changed_names(function: ast.AST) -> Iterator[tuple[int, str]]:
    """Names whose value a function changes in place, and those it declares global."""
    for node in ast.walk(function):
        if isinstance(node, ast.Global):
            yield from ((node.lineno, name) for name in node.names)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, (ast.Store, ast.Del)):
            yield node.lineno, ast.unparse(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGERS:
            yield node.lineno, ast.unparse(node.func.value)


def test_no_module_holds_state_but_registries():
    wrong = []
    for path, tree in PACKAGE_SOURCES.items():
        targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
        targets += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
        known = {target.id for target in targets if isinstance(target, ast.Name)} - REGISTRIES
        for function in functions_of(tree):
            wrong += [f"{path}:{line} changes {name}" for line, name in changed_names(function) if name in known]
    assert not wrong, "\n".join(wrong)


def tracked() -> list[str]:
    """The paths in git; skips where this is no checkout of its own."""
    if shutil.which("git") is None:
        pytest.skip("no git here")
    top = subprocess.run(["git", "rev-parse", "--show-toplevel"], cwd=REPO, capture_output=True, text=True, check=False)
    if top.returncode or Path(top.stdout.strip()) != REPO.resolve():
        pytest.skip("not a git checkout")
    return subprocess.check_output(["git", "ls-files"], cwd=REPO, text=True).splitlines()


def test_the_top_level_stays_as_it_is():
    names = {path.split("/")[0] for path in tracked()}
    assert {name for name in names if not name.startswith(".")} == TOP_FOLDERS | TOP_FILES


def fenced(language: str) -> list[str]:
    """The README's blocks of code in a language, "" for none."""
    blocks: list[tuple[str, list[str]]] = []
    inside = False
    for line in README.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            inside = not inside
            if inside:
                blocks.append((line.removeprefix("```"), []))
        elif inside:
            blocks[-1][1].append(line + "\n")
    return ["".join(lines) for written, lines in blocks if written == language]


def tree_of(block: str) -> list[str]:
    """The paths that an indented tree names; what stands behind a name is a comment."""
    paths, above = [], []
    for line in filter(str.strip, block.splitlines()):
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        above = [*above[:depth], name]
        paths.append("".join(above))
    return paths


def test_the_readmes_map_is_the_tree():
    maps = [block for block in fenced("") if block.startswith("vista_train/")]
    assert len(maps) == 1, "the README needs one block that begins with vista_train/"
    paths = tree_of(maps[0])
    modules = [path for path in paths if path.startswith("vista_train/") and path.endswith(".py")]
    assert sorted(modules) == sorted(PACKAGE_SOURCES)
    assert [path for path in paths if not (REPO / path).exists()] == []


def commands() -> list[list[str]]:
    """The words of every command in the README's bash blocks, without variables set in front."""
    found = []
    for block in fenced("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.match(r"\w+=", words[0]):
                words.pop(0)
            found += [words] if words else []
    return found


def test_the_readmes_commands_are_there():
    checked = 0
    for words in commands():
        known = ("bash", "python", "accelerate", "pip", "vista-train", "sbatch", "scancel")
        assert words[0] in known, f"the test does not know {words}"
        files = [word for word in words[1:] if re.fullmatch(r"[\w./-]+\.(sh|py|yaml|json|sbatch)", word)]
        modules = [words[at + 1] for at, word in enumerate(words) if word == "-m"]
        assert all((REPO / file).is_file() for file in files), words
        assert all((REPO / f"{module.replace('.', '/')}.py").is_file() for module in modules), words
        for recipe in (file for file in files if file.startswith("recipes/")):
            settings = [word for word in words[words.index(recipe) + 1 :] if re.match(r"[a-z][\w.]*=", word)]
            assert load_recipe(REPO / recipe, settings).make_mix()
        checked += len(files) + len(modules)
    assert checked >= 5


def test_the_readmes_example_runs(tmp_path, augmentations, monkeypatch):
    blocks = [block for block in fenced("python") if block.startswith("# runs as a test\n")]
    assert blocks, "the README needs a ```python block whose first line is `# runs as a test`"
    before = set(REGISTRY)
    for number, block in enumerate(blocks):
        path = tmp_path / f"readme_example_{number}.py"
        path.write_text(block)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, path.stem, module)
        spec.loader.exec_module(module)
    # What it defines can be named in a recipe at once.
    fresh = set(REGISTRY) - before
    assert fresh
    mix = parse_recipe({"augment": {name: {"weight": 2} for name in fresh}}).make_mix()
    assert {(item.augment.name, item.weight) for item in mix} == {(name, 2.0) for name in fresh}
