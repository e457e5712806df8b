"""Signals, a full disk and a full memory around the stages: two lines each, and the command that goes on."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from tuneloop.errors import Interrupted, ResourceError
from tuneloop.loop.guard import explained, interruptible, without_fetching
from tuneloop.models import is_offline


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_with_the_command_that_goes_on(number: signal.Signals) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as caught, interruptible("tuneloop run p.yaml a=1"):
        signal.raise_signal(number)
    assert caught.value.exit_code == 75
    assert str(caught.value).endswith("tuneloop run p.yaml a=1")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_room_that_stopped_by_itself_gets_the_same_hint() -> None:
    with pytest.raises(Interrupted) as caught, interruptible("tuneloop train p.yaml"):
        raise Interrupted("stopped after step 3", hint="type it again")
    assert caught.value.what == "stopped after step 3"
    assert "tuneloop train p.yaml" in (caught.value.hint or "")


def test_a_full_disk_is_a_resource_error(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="disk is full") as caught, explained(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "big.bin"))
    assert caught.value.where == str(tmp_path / "big.bin")


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")]
)
def test_a_full_memory_is_a_resource_error(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(ResourceError, match="memory is full"), explained(tmp_path):
        raise error


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), RuntimeError("a bug"), ValueError("a bug")])
def test_anything_else_stays_what_it_is(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, explained(tmp_path):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("said", [None, "0"])
def test_fetching_is_off_for_a_while(monkeypatch: pytest.MonkeyPatch, said: str | None) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TUNELOOP_OFFLINE", raising=False)
    if said is not None:
        monkeypatch.setenv("TUNELOOP_OFFLINE", said)
    with without_fetching():
        assert is_offline()
    assert not is_offline()
    assert os.environ.get("TUNELOOP_OFFLINE") == said
