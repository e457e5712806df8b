"""One line for a request: what is in it, what never is, and that nobody waits for whoever reads it."""

from __future__ import annotations

import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("starlette", reason="pip install 'tuneloop[serve]'")

from tuneloop import progress
from tuneloop.serve.logs import Logs, begin_record, note
from tuneloop.serve.observe import ObserveConfig


class Sink(io.StringIO):
    """A file that can be told to block."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.open.set()

    def write(self, text: str) -> int:
        self.open.wait(10)
        return super().write(text)

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def dropped() -> list[int]:
    return []


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def logs(sink: Sink, dropped: list[int]) -> Iterator[Logs]:
    made = Logs(ObserveConfig(), lambda: dropped.append(1), sink, queue_lines=5)
    made.start()
    yield made
    sink.open.set()
    made.stop()


def test_a_line_is_json_with_utc_time(logs: Logs, sink: Sink) -> None:
    logs.write("request", route="/generate", text='"quoted"\n中文')
    logs.stop()
    (row,) = sink.rows()
    assert (row["event"], row["level"], row["route"], row["text"]) == ("request", "info", "/generate", '"quoted"\n中文')
    assert row["time"].endswith("+00:00")


def test_what_the_rest_of_the_program_says_is_json_too(logs: Logs, sink: Sink) -> None:
    progress.log("engine: it died")
    logging.getLogger("uvicorn.error").error("careful: %s", "x")
    logs.stop()
    assert [(r["event"], r["message"]) for r in sink.rows()] == [
        ("message", "engine: it died"),
        ("message", "careful: x"),
    ]


def test_after_stop_the_program_speaks_to_standard_error_again(
    logs: Logs, sink: Sink, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.stop()
    progress.log("bye")
    assert capsys.readouterr().err == "bye\n"
    assert sink.getvalue() == ""


def test_a_reader_that_hangs_costs_lines_not_time(logs: Logs, sink: Sink, dropped: list[int]) -> None:
    sink.open.clear()
    for i in range(20):
        logs.write("request", i=i)  # would block for ever
    assert 20 - 5 - 2 <= len(dropped) <= 20 - 5  # five wait, one or none is in the writer's hand
    sink.open.set()
    logs.stop()
    assert len(sink.rows()) == 20 - len(dropped)


def test_the_end_does_not_wait_for_a_reader_that_hangs(logs: Logs, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuneloop.serve.logs.STOP_S", 0.1)
    sink.open.clear()
    for i in range(20):
        logs.write("request", i=i)
    began = time.monotonic()
    logs.stop()
    assert time.monotonic() - began < 5


def test_text_is_for_a_person(sink: Sink) -> None:
    logs = Logs(ObserveConfig(logs="text"), lambda: None, sink)
    logs.start()
    logs.write("request", request_id="r1", method="POST", route="/generate", status=200, duration_s=0.5, model="m")
    logs.stop()
    line = sink.getvalue()
    assert " POST /generate 200 request_id=r1 duration_s=0.5\n" in line
    assert "model" not in line


def test_a_librarys_error_is_text_where_requests_are_text(sink: Sink) -> None:
    logs = Logs(ObserveConfig(logs="text"), lambda: None, sink)
    logs.start()
    logging.getLogger("uvicorn.error").error("careful: %s", "x")
    logs.stop()
    assert sink.getvalue().endswith(" careful: x\n")


@pytest.mark.parametrize(("config", "active"), [("off", False), ("json", True)])
def test_off_is_off(sink: Sink, config: Any, active: bool) -> None:
    logs = Logs(ObserveConfig(logs=config), lambda: None, sink)
    logs.start()
    logs.write("request")
    assert logs.active is active
    logs.stop()
    assert bool(sink.getvalue()) is active


def test_a_note_outside_a_request_is_no_error() -> None:
    note(finish="stop")


def test_a_note_reaches_the_record_of_its_request() -> None:
    record = begin_record()
    note(finish="stop")
    assert record == {"finish": "stop"}
