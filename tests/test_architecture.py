"""The house: which folder may import which, what some may not know at all, and that no folder grows too large.

docs/where-to-add.md says what each folder is for.
"""

import ast
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import REPO

# From the ground up: a room may import rooms above it in this list, and its own files. A name that ends in a slash is a
# folder, without the parts that have a line of their own.
HOUSE = (
    "gpt_lightning/errors.py",
    "gpt_lightning/files.py",
    "gpt_lightning/ranges.py",
    "gpt_lightning/device.py",
    "gpt_lightning/notices.py",
    "gpt_lightning/make_once.py",
    "gpt_lightning/command_line.py",
    "gpt_lightning/batch.py",
    "gpt_lightning/kv_cache.py",
    "gpt_lightning/model.py",
    "gpt_lightning/data/verified.py",
    "gpt_lightning/data/tokenizer.py",
    "gpt_lightning/data/token_label.py",
    "gpt_lightning/data/text/",
    "gpt_lightning/data/tokens/",
    "gpt_lightning/data/batches/",
    "gpt_lightning/data/",
    "gpt_lightning/decoding/",
    "gpt_lightning/training/",
    "gpt_lightning/interpret/measure/",
    "gpt_lightning/interpret/judge/",
    "gpt_lightning/interpret/",
    "gpt_lightning/interpret/draw/",
    "gpt_lightning/interpret/write/",
    "gpt_lightning/checkpoints/",
    "gpt_lightning/interop/",
    "gpt_lightning/module.py",
    "callbacks/",
    "cli/",
    "docs/",
    "./",
    "benchmarks/",
)
UNKNOWN_TO = {  # what the files of a folder may not import, ours or others'
    "gpt_lightning/model.py": {"lightning", "matplotlib", "tensorboard", "tiktoken"},
    "gpt_lightning/kv_cache.py": {"lightning", "matplotlib", "tensorboard", "tiktoken"},
    "gpt_lightning/interpret/": {"lightning", "tensorboard", "gpt_lightning.data", "gpt_lightning.training"},
    "gpt_lightning/interpret/measure/": {"matplotlib"},
    "gpt_lightning/interpret/judge/": {"matplotlib"},
    "gpt_lightning/decoding/": {"lightning", "matplotlib", "tensorboard"},
    "gpt_lightning/interop/": {"lightning", "matplotlib", "tensorboard"},
    "gpt_lightning/data/": {"gpt_lightning.interpret", "gpt_lightning.model", "matplotlib", "tensorboard"},
    "gpt_lightning/": {"callbacks", "cli", "tensorboard"},
    "callbacks/": {"cli", "argparse"},
}
MOST_FILES = 12


def files() -> list[Path]:
    folders = ("gpt_lightning", "callbacks", "cli", "docs", "benchmarks")
    paths = [path for folder in folders for path in (REPO / folder).rglob("*.py")] + list(REPO.glob("*.py"))
    return [path.relative_to(REPO) for path in sorted(paths)]


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it; `from a import b` may be the module a.b."""
    names = set()
    for node in ast.walk(ast.parse((REPO / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def file_of(module: str) -> Path | None:
    base = Path(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if (REPO / p).is_file()), None)


def room_of(path: Path) -> str:
    """The line of HOUSE that a file belongs to: the longest that fits."""
    fitting = [room for room in HOUSE if str(path) == room or (room.endswith("/") and str(path).startswith(room))]
    return max(fitting, key=len) if fitting else "./"


ARROWS = sorted(
    {(path, target) for path in files() for name in imports(path) if (target := file_of(name)) not in (None, path)}
)


def test_imports_point_down():
    # An __init__.py that re-exports names of its folder stands above them.
    wrong = [
        f"{path} imports {target}"
        for path, target in ARROWS
        if HOUSE.index(room_of(path)) < HOUSE.index(room_of(target)) and target.name != "__init__.py"
    ]
    assert not wrong


def test_no_files_import_each_other_in_a_circle():
    below: dict[Path, set[Path]] = {path: {t for p, t in ARROWS if p == path} for path in files()}
    while free := [path for path, targets in below.items() if not targets & below.keys()]:
        for path in free:
            del below[path]
    assert not below, f"in or above a circle: {', '.join(map(str, below))}"


@pytest.mark.parametrize("folder", UNKNOWN_TO)
def test_what_a_folder_does_not_know(folder):
    wrong = [
        f"{path} imports {name}"
        for path in files()
        if str(path).startswith(folder)
        for name in imports(path)
        if any(name == unknown or name.startswith(f"{unknown}.") for unknown in UNKNOWN_TO[folder])
    ]
    assert not wrong


def test_no_folder_has_more_files_than_one_can_survey():
    counts: dict[Path, int] = {}
    for path in files():
        counts[path.parent] = counts.get(path.parent, 0) + (path.name != "__init__.py")
    del counts[Path("benchmarks")]  # each is a command of its own
    assert {folder: n for folder, n in counts.items() if n > MOST_FILES} == {}


def test_the_house_is_as_it_is_drawn_here():
    assert all((REPO / room).exists() for room in HOUSE)
    assert all(room_of(path) in HOUSE for path in files())
    assert all(a != b for a, b in pairwise(HOUSE))
