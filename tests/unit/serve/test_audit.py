"""The audit log's chain: what it notices, how it lives through crashes, full disks and rotation."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from tuneloop.errors import DataError, ResourceError
from tuneloop.serve.audit import AuditConfig, AuditLog, Entry
from tuneloop.serve.audit_chain import GENESIS, Verified, verify


def write(path: Path, count: int = 3, **config: object) -> AuditLog:
    log = AuditLog(AuditConfig(path=path, **config))  # type: ignore[arg-type]
    for i in range(count):
        log.write(Entry(f"r{i}", "k1", "POST /v1/chat/completions").line())
    return log


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def test_an_untouched_log_verifies_over_restarts(path: Path) -> None:
    write(path).close()
    write(path).close()
    assert verify([path]).lines == 10  # opened, three, closed; twice
    assert verify([path]).first_prev == GENESIS
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("line", range(4))
def test_a_line_that_is_taken_out_shows(path: Path, line: int) -> None:
    write(path).close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:line] + lines[line + 1 :]))
    if line == 0:  # the file then begins in the middle of a chain, and says so
        assert verify([path]).first_prev != GENESIS
    else:
        with pytest.raises(DataError, match="does not follow") as caught:
            verify([path])
        assert caught.value.where == f"{path}:{line + 1}"


def test_a_line_that_is_changed_or_moved_shows(path: Path) -> None:
    write(path).close()
    lines = path.read_bytes().splitlines(keepends=True)
    for changed in (
        [lines[0], lines[1].replace(b'"k1"', b'"k2"'), *lines[2:]],
        [lines[0], lines[2], lines[1], *lines[3:]],
        [lines[0], b"{}\n", *lines[2:]],
        [lines[0], lines[0], *lines[1:]],
    ):
        path.write_bytes(b"".join(changed))
        with pytest.raises(DataError):
            verify([path])


def test_an_end_that_was_cut_off_shows_in_the_last_hash(path: Path) -> None:
    write(path).close()
    whole = verify([path])
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert verify([path]).last_hash != whole.last_hash


@pytest.mark.parametrize("kept", [1, 40, -2, -1])
def test_half_a_line_that_a_crash_has_left_is_owned_up_to(path: Path, kept: int) -> None:
    log = write(path)
    os.close(log._fd)  # killed: no "closed" line
    whole = path.read_bytes()
    begin = whole[:-1].rindex(b"\n") + 1
    path.write_bytes(whole[: begin + kept] if kept > 0 else whole[:kept])
    write(path, 1).close()
    assert "torn" in path.read_text()
    assert verify([path]).first_prev == GENESIS


def test_a_rotated_log_goes_on_in_a_new_file_as_one_chain(path: Path) -> None:
    log = write(path)
    old = path.with_suffix(".1")
    path.rename(old)
    log.write({"event": "while renamed"})
    log.reopen()
    log.write({"event": "after"})
    log.close()
    assert "while renamed" in old.read_text()
    assert "after" in path.read_text()
    both = verify([old, path])
    assert both.first_prev == GENESIS
    assert verify([path]) == Verified(3, verify([old]).last_hash, both.last_hash)
    with pytest.raises(DataError):
        verify([path, old])


def test_a_full_disk_refuses_until_it_is_free_again_and_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write(path, 1)
    full = True
    real = os.write

    def limited(fd: int, data: bytes) -> int:
        return real(fd, data[:20]) if full else real(fd, data)  # as the kernel does with the last bytes of a disk

    monkeypatch.setattr("tuneloop.serve.audit.os.write", limited)
    log.write({"event": "a"})
    assert not log.accepts()
    log.write({"event": "b"})
    full = False
    assert log.accepts()
    log.close()
    events = [
        json.loads(line)["event"] for line in path.read_text().splitlines() if line.endswith('"}') and "event" in line
    ]
    assert [e for e in events if e != "torn"] == ["opened", "a", "b", "closed"]
    assert verify([path]).first_prev == GENESIS
    assert log.lost == 0


def test_a_disk_that_is_really_full_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """/dev/full is the kernel's own full disk."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full on this system")
    log = AuditLog(AuditConfig(path=Path("/dev/full"), fsync="never"))
    assert log.failing
    assert not log.accepts()
    assert "No space left on device" in capsys.readouterr().err
    os.close(log._fd)


def test_going_on_without_a_log_counts_what_is_lost(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = write(path, 0, on_failure="continue")

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("tuneloop.serve.audit.os.write", full)
        for _ in range(3):
            log.write({"event": "lost"})
        assert log.accepts()
    log.write({"event": "kept"})
    log.close()
    assert log.lost == 3
    assert "lost" not in path.read_text()
    assert verify([path]).lines == 3


def test_lines_of_many_threads_make_one_chain(path: Path) -> None:
    log = write(path, 0, fsync="never")
    threads = [threading.Thread(target=lambda: [log.write({"event": "x"}) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert verify([path]).lines == 202


def test_a_log_that_ends_in_half_a_line_does_not_verify(path: Path) -> None:
    write(path).close()
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="the last line is broken"):
        verify([path])


@pytest.mark.parametrize(("fsync", "times"), [("always", 4), ("second", 1), ("never", 0)])
def test_fsync_is_done_when_it_was_asked_for(
    path: Path, monkeypatch: pytest.MonkeyPatch, fsync: str, times: int
) -> None:
    done: list[int] = []
    monkeypatch.setattr("tuneloop.serve.audit.os.fsync", done.append)
    log = write(path, 3, fsync=fsync)
    if fsync == "second":
        log.sync()
        log.sync()  # nothing new: nothing to do
    assert len(done) == times
    os.close(log._fd)


def test_a_log_that_cannot_be_opened_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="cannot be used"):
        AuditLog(AuditConfig(path=tmp_path))


def test_bodies_are_announced_loudly(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(path, 0).close()
    assert "BODIES" not in capsys.readouterr().err
    write(path, 0, bodies=True).close()
    assert "BODIES ARE WRITTEN" in capsys.readouterr().err
