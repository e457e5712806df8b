"""Fixtures shared by every test. Nothing here reaches the network or the user's own cache."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

sys.path.insert(0, str(Path(__file__).parent.parent))  # so that "from tests.tiny import ..." works everywhere

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job ignores Ctrl-C; tests send it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has its own TUNELOOP_HOME: no model cache, no database of the person who runs the tests."""
    monkeypatch.setenv("TUNELOOP_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.delenv("TUNELOOP_DATABASE_URL", raising=False)
    monkeypatch.delenv("TUNELOOP_REDIS_URL", raising=False)
    monkeypatch.setattr("tuneloop.progress._quiet", False)  # a command run with --json in this process switches it on


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``tiny(arch, style)`` -> a model folder, made once a session. Do not write into it."""
    from tests.tiny import tiny_folder

    made: dict[tuple[Any, ...], Path] = {}

    def folder(arch: str = "qwen2", style: str = "chatml", **more: Any) -> Path:
        key = (arch, style, *sorted(more.items()))
        if key not in made:
            made[key] = tiny_folder(arch, style, tmp_path_factory.mktemp("tiny"), **more)  # type: ignore[arg-type]
        return made[key]

    return folder
