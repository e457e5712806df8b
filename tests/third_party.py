"""An engine of somebody else, as an installed package would bring it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def install_engine(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> None:
    """Let processes that are started from now on find the engine ``name``: the class ``Name`` in this source."""
    (folder / f"{name}.py").write_text(source)
    info = folder / f"{name}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[tuneloop.engines]\n{name} = {name}:{name.capitalize()}\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]))
