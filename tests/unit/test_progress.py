"""Progress lines: nothing for short work, an honest ETA for long work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tuneloop import progress
from tuneloop.progress import Progress, duration, log, set_quiet, track


class Clock:
    """``time.monotonic`` by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress.time, "monotonic", made)
    return made


@pytest.fixture(autouse=True)
def _loud() -> Iterator[None]:
    set_quiet(False)
    yield
    set_quiet(False)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (12.4, "12s"), (59.4, "59s"), (59.6, "1:00"), (75, "1:15"), (3599, "59:59"), (3661, "1:01:01")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_short_work_prints_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("short", 10) as bar:
        for _ in range(10):
            clock.now += 0.1
            bar.update()
    assert capsys.readouterr() == ("", "")


def test_eta(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("work", 10, "rows") as bar:
        clock.now += 20
        bar.update(2, note="loss 1.0")
        assert capsys.readouterr().err == "  work · 2/10 rows · ETA 1:20 · 20s · loss 1.0\n"
        clock.now += 1
        bar.update()
        assert capsys.readouterr().err == ""  # not on a terminal: a line every ten seconds
    assert capsys.readouterr().err == "  work · 3/10 rows · 21s · loss 1.0\n"


def test_eta_does_not_count_what_an_earlier_run_did(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("work", 100, "steps") as bar:
        bar.resume_at(90)
        clock.now += 20
        bar.update(2)
        assert "92/100 steps · ETA 1:20" in capsys.readouterr().err


def test_unknown_total_has_no_eta(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("reading", unit="lines") as bar:
        clock.now += 20
        bar.update(5)
        assert capsys.readouterr().err == "  reading · 5 lines · 20s\n"


def test_quiet(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    set_quiet(True)
    log("a line")
    with Progress("work", 10) as bar:
        clock.now += 20
        bar.update()
    assert capsys.readouterr() == ("", "")


def test_log_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    log("a line")
    assert capsys.readouterr() == ("", "a line\n")


def test_track_yields_everything_and_counts(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    seen = []
    for item in track([1, 2, 3], "counting", unit="rows"):
        seen.append(item)
        clock.now += 11
    assert seen == [1, 2, 3]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "  counting · 1/3 rows · ETA 22s · 11s"
    assert lines[-1] == "  counting · 3/3 rows · 33s"
