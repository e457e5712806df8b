"""A synthesis that is killed: no answer is paid twice, and the rows come out the same."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chat_server import Reply, Server, serving

DEADLINE_S = 60.0
CONCURRENCY = 4
KILL_AT = (9, 25)
"""Numbers of requests from which the server is silent, so that the process can be killed with everything else settled."""
SCRIPT = """
import json, sys
from pathlib import Path
import polars as pl
from tuneloop.data.config import MakerConfig
from tuneloop.data.frame import make_frame
from tuneloop.data.makers import Around, run
from tuneloop.types import record_id

folder, url = Path(sys.argv[1]), sys.argv[2]
labels = [("card_lost", "fee")[k % 2] for k in range(60)]
frame = make_frame({
    "id": [record_id(str(k), "rows.csv") for k in range(60)],
    "messages": [[{"role": "user", "content": f"question {k} about {label}"}] for k, label in enumerate(labels)],
    "label": labels, "source": [0] * 60,
})
endpoint = {"url": url, "model": "m", "concurrency": int(sys.argv[3]), "backoff_s": 0.01}
config = MakerConfig(name="synthesise", options={"endpoint": endpoint, "rows": 40, "rows_per_request": 2})
told = {}
around = Around(5, {"card_lost": 30, "fee": 30}, folder / "cache", report=lambda **counts: told.update(counts))
new = pl.concat(run([config], [frame[:25], frame[25:]], around))
new.write_ndjson(folder / "new.jsonl")
(folder / "told.json").write_text(json.dumps(told))
"""


def model(body: dict[str, Any], before: int) -> Reply:
    """Fails at first where the hash of the question says so; one in eight answers is no JSON, one in eight is a copy."""
    seed = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    digit = int(seed[0], 16)
    if digit < 4 and not before:
        return Reply("busy", (429, 500, 503, 429)[digit], {"Retry-After": "0"} if digit == 0 else {})
    if digit in (4, 5):
        return Reply("I would rather not.")
    if digit in (6, 7):
        return Reply(json.dumps([{"text": "question 1 about fee"}]))
    return Reply(json.dumps([{"text": f"{seed[i : i + 12]} what about {seed[i + 12 : i + 20]}"} for i in (0, 24)]))


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(model) as running:
        yield running


def start(folder: Path, server: Server) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), server.url, str(CONCURRENCY)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder: Path, server: Server) -> bytes:
    process = start(folder, server)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, errors
    return (folder / "new.jsonl").read_bytes() + (folder / "cache/synthesise/rejected.jsonl").read_bytes()


def kill_when_silent(folder: Path, server: Server, request: int) -> None:
    """Kill the process when each of its threads waits for an answer: what came before is on the disk."""
    server.hold_from, server.held = request, 0
    server.release.clear()
    process = start(folder, server)
    end = time.monotonic() + DEADLINE_S
    while server.held < CONCURRENCY:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "the synthesis did not reach the request"
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    server.release.set()


def test_killed_twice_and_continued_pays_once_and_gives_the_same_rows(tmp_path: Path, server: Server) -> None:
    for request in KILL_AT:
        kill_when_silent(tmp_path / "killed", server, request)
        paid = server.served.total()
        assert 0 < paid == len(list((tmp_path / "killed/cache/synthesise/answers").iterdir()))
    server.hold_from = None
    rows = finish(tmp_path / "killed", server)
    assert set(server.served.values()) == {1}, "an answer was delivered twice"
    told = json.loads((tmp_path / "killed/told.json").read_text())
    assert told["requests"] == server.served.total()
    assert told["cached"] == paid

    with serving(model) as other:  # another address: it is part of what is cached, not of what is made
        assert finish(tmp_path / "whole", other) == rows
    assert rows.count(b'"origin":"synthesise:') == 80


def test_a_finished_synthesis_asks_nothing_again(tmp_path: Path, server: Server) -> None:
    first = finish(tmp_path, server)
    asked = server.received.total()
    assert finish(tmp_path, server) == first
    assert server.received.total() == asked
