"""The walls between the rooms, checked on the source: who may import whom, and that doors are light."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "tuneloop"

BASE = frozenset({"types", "errors", "config", "rundir", "store", "stats", "page", "progress", "every", "openmp"})
TABLE: dict[str, frozenset[str]] = {
    "data": frozenset(),
    "chat": frozenset(),
    "models": frozenset(),
    "train": frozenset({"data", "chat", "models"}),
    "compress": frozenset({"data", "chat", "models"}),
    "engines": frozenset({"data", "chat", "models"}),
    "evaluate": frozenset({"data", "chat", "engines"}),
    "compare": frozenset(),
    "report": frozenset(),
    "deploy": frozenset(),
    "serve": frozenset({"data", "chat", "models", "engines", "compare"}),
}
"""Room -> the other rooms whose doors it may use. Every room may use the base."""
TOP = frozenset({"loop", "cli", "__init__", "__main__"})
"""What stands above the rooms and may use every door."""
HEAVY = ("torch", "transformers", "peft", "fastapi", "polars", "numpy", "matplotlib", "xllamacpp")
LIGHT_IMPORT_S = 0.3

SOURCES = sorted(PACKAGE.rglob("*.py"))
ROOMS = sorted(p.parent.name for p in PACKAGE.glob("*/__init__.py"))


def room_of(path: Path) -> str:
    """The room of a file, or the name of the module where it stands alone."""
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of every tuneloop module or name that is imported, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if a.name.split(".")[0] == "tuneloop")
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "tuneloop"):
            assert not node.level, f"line {node.lineno}: a relative import hides which room it enters"
            yield from ((node.lineno, f"{node.module}.{a.name}") for a in node.names)


def is_module(dotted: str) -> bool:
    place = PACKAGE.parent.joinpath(*dotted.split("."))
    return place.with_suffix(".py").exists() or (place / "__init__.py").exists()


def breaches(path: Path, tree: ast.AST) -> Iterator[str]:
    """Imports that go through a wall."""
    here = room_of(path)
    for line, dotted in imported(tree):
        parts = dotted.split(".")
        there = parts[1] if len(parts) > 1 else ""
        at = f"{path.relative_to(ROOT)}:{line}"
        if there == here or (there not in ROOMS and there not in BASE):
            if there == "loop" and here not in TOP:
                yield f"{at}: {here} imports the loop"
            continue
        if here in BASE and there not in BASE:
            yield f"{at}: the base imports {there}"
        if here in TABLE and there not in TABLE[here] | BASE:
            yield f"{at}: {here} may not import {there}"
        if there in ROOMS and len(parts) > 2 and is_module(".".join(parts[:3])) and not _on_the_door(parts):
            yield f"{at}: {here} goes past the door of {there}: {dotted}"


def _on_the_door(parts: list[str]) -> bool:
    """Whether ``tuneloop.room.name`` is a module that the door itself lists in ``__all__``."""
    return len(parts) == 3 and parts[2] in exported(PACKAGE / parts[1] / "__init__.py")


def exported(path: Path) -> set[str]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return set(ast.literal_eval(node.value))
    return set()


def test_every_room_stands_in_the_table() -> None:
    unknown = {room_of(p) for p in SOURCES} - BASE - TOP - set(TABLE)
    assert not unknown, f"give these a line in TABLE, BASE or TOP: {sorted(unknown)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_go_through_doors(path: Path) -> None:
    assert not list(breaches(path, ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("data/clean.py", "from tuneloop.models import resolve"),
        ("data/clean.py", "from tuneloop import chat"),
        ("train/loop.py", "from tuneloop.data.artifact import read_records"),
        ("train/loop.py", "import tuneloop.data.artifact"),
        ("train/loop.py", "def f():\n    from tuneloop.data import artifact"),
        ("cli/app.py", "from tuneloop.data.ledger import explain"),
        ("rundir.py", "from tuneloop import data"),
        ("report/page.py", "from tuneloop.loop import run"),
    ],
)
def test_a_breach_is_seen(where: str, line: str) -> None:
    assert list(breaches(PACKAGE / where, ast.parse(line)))


@pytest.mark.parametrize("room", ROOMS)
def test_doors_are_light(room: str) -> None:
    code = f"import sys, tuneloop.{room}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_importing_the_package_is_quick() -> None:
    def seconds(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - start

    bare = statistics.median(seconds("pass") for _ in range(5))
    taken = statistics.median(seconds("import tuneloop") for _ in range(5)) - bare
    assert taken < LIGHT_IMPORT_S


@pytest.mark.parametrize("room", ROOMS)
def test_every_door_says_what_it_exports(room: str) -> None:
    names = exported(PACKAGE / room / "__init__.py")
    assert names, f"tuneloop.{room} has no __all__"
    code = f"import tuneloop.{room} as r; print(*[n for n in r.__all__ if not hasattr(r, n)])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], "listed but not there"


def test_no_code_of_a_model_repository_is_run() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.value.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.keyword)
        and node.arg == "trust_remote_code"
        and not (isinstance(node.value, ast.Constant) and node.value.value is False)
    ]
    assert not found


def test_no_path_of_one_machine_is_committed() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    folders = ("work", "root", "tmp/ve")
    paths = re.compile(r"(?<![\w.~}])/(?:" + "|".join(map(re.escape, folders)) + r")/\w")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):  # binary, or removed in the working tree
            continue
        found += [f"{name}:{n}" for n, line in enumerate(text.splitlines(), 1) if paths.search(line)]
    assert not found
