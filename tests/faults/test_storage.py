"""``tuneloop serve`` on a disk that is full, or with a database that another process holds: requests are served or
refused cleanly, nothing is half written, and when there is room again everything works as before."""

from __future__ import annotations

import json
import resource
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

httpx = pytest.importorskip("httpx", reason="pip install 'tuneloop[serve]'")
pytest.importorskip("fastapi", reason="pip install 'tuneloop[serve]'")
pytest.importorskip("psutil", reason="pip install 'tuneloop[serve]'")
pytest.importorskip("python_multipart", reason="pip install 'tuneloop[serve]'")

from tests.faults.load import CHAT, wait_for  # noqa: E402
from tests.faults.service import Service, said, service, total  # noqa: E402
from tuneloop.serve.audit_chain import verify  # noqa: E402

if not hasattr(resource, "prlimit"):
    pytest.skip("prlimit is Linux's", allow_module_level=True)

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "I lost my card"}], "max_tokens": 2}
LONG = ASK | {"messages": [{"role": "user", "content": "card " * 5000}]}
"""Long enough to be tokenised on a thread; too long for the context."""


class Client:
    """Asks a service."""

    def __init__(self, here: Service) -> None:
        self.here = here
        self.http = httpx.Client(base_url=here.url, headers=here.headers, timeout=60, trust_env=False)

    def chat(self, body: dict[str, Any] = ASK) -> httpx.Response:
        return self.http.post(CHAT, json=body)

    def upload(self, size: int = 100) -> httpx.Response:
        """A file of one valid line."""
        body = ASK | {"user": "x" * size}
        line = json.dumps({"custom_id": "a", "method": "POST", "url": CHAT, "body": body}) + "\n"
        return self.http.post("/v1/files", files={"file": ("in.jsonl", line.encode())}, data={"purpose": "batch"})

    def batch(self, file: str) -> httpx.Response:
        body = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
        return self.http.post("/v1/batches", json=body)

    def status_of(self, batch: str) -> str:
        return str(self.http.get(f"/v1/batches/{batch}").json()["status"])

    @property
    def lives(self) -> bool:
        return [self.http.get(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]


@contextmanager
def full_disk(here: Service) -> Iterator[None]:
    """No file of the gateway's process can be written. (That of the engine writes none.)"""
    soft, hard = resource.prlimit(here.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(here.pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.prlimit(here.pid, resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def locked(here: Service, folder: Path) -> Iterator[None]:
    """Another process writes, and does not end."""
    with closing(sqlite3.connect(folder / "tuneloop.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")


@contextmanager
def client(tiny: Callable[..., Path], folder: Path, **config: Any) -> Iterator[Client]:
    with service(tiny("llama", "chatml"), folder, {"engine": {"name": "fake"}} | config) as here:
        made = Client(here)
        with made.http:
            yield made


def test_a_full_disk_stops_what_must_be_written_and_nothing_else(tiny: Callable[..., Path], tmp_path: Path) -> None:
    with client(tiny, tmp_path) as site:
        before = site.upload().json()["id"]
        with full_disk(site.here):
            refused = [site.upload(), site.upload(3_000_000), site.batch(before)]
            assert [(r.status_code, said(r)) for r in refused] == [
                (507, "disk"),
                (507, "disk"),  # larger than what an upload may take in memory
                (503, "storage_unavailable"),
            ]
            assert [site.chat().status_code for _ in range(3)] == [200] * 3  # nothing of it must be kept
            assert site.lives
        assert [path.name for path in (tmp_path / "batches" / "files").iterdir()] == [before]
        assert site.http.get("/v1/batches").json()["data"] == []
        assert site.upload(3_000_000).status_code == 200
        batch = site.batch(before).json()["id"]
        wait_for(lambda: site.status_of(batch) == "completed")
        series = site.here.metrics()
        assert total(series, "tuneloop_log_lines_dropped_total") > 0, "lines that could not be written are counted"
        assert site.chat().status_code == 200
        wait_for(lambda: routes(site.here.log)[-1] == CHAT)  # and they are written again


def routes(log: Path) -> list[str]:
    """Of the requests in the log, in order; the last line may not be complete yet."""
    lines = [line for line in log.read_text().splitlines() if '"event":"request"' in line and line.endswith("}")]
    return [json.loads(line)["route"] for line in lines]


def test_an_audit_log_that_cannot_be_written_stops_the_service_until_it_can(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "audit" / "audit.jsonl"
    with client(tiny, tmp_path, audit={"path": str(path)}) as site:
        assert site.chat().status_code == 200
        wait_for(lambda: "request_id" in path.read_text())  # its line is there
        with full_disk(site.here):
            last = site.chat()  # was accepted before anybody could know
            refused = [site.chat() for _ in range(3)]
            assert last.status_code == 200
            assert {(r.status_code, said(r), r.headers["retry-after"]) for r in refused} == {
                (503, "audit_unavailable", "10")
            }
            assert site.lives
            assert total(site.here.metrics(), "tuneloop_errors_total", reason="audit_unavailable") == 3
        assert site.chat().status_code == 200
        wait_for(lambda: path.read_text().count(f'"route":"POST {CHAT}"') == 3)  # a line follows its answer
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    told = [(line["route"], line["status"]) for line in lines if "request_id" in line]
    metrics = ("GET /metrics", 200)
    assert [t for t in told if t != metrics] == [(f"POST {CHAT}", s) for s in (200, 200)] + [
        ("POST (none)", 503)
    ] * 3 + [(f"POST {CHAT}", 200)]
    verify([path])


def test_a_locked_database_holds_up_what_needs_it_and_nobody_else(tiny: Callable[..., Path], tmp_path: Path) -> None:
    with client(tiny, tmp_path) as site, ThreadPoolExecutor(8) as pool:
        file = site.upload().json()["id"]
        with locked(site.here, tmp_path):
            waiting = [pool.submit(site.batch, file) for _ in range(8)]
            begun = time.monotonic()
            while time.monotonic() - begun < 3:
                asked = time.monotonic()
                assert site.chat().status_code == 200
                assert site.chat(LONG).status_code == 400  # too long: said after the tokens were counted
                assert site.lives
                assert time.monotonic() - asked < 2
            refused = [asked.result() for asked in waiting]
            assert {(r.status_code, said(r)) for r in refused} == {(503, "storage_unavailable")}
            assert {r.headers["retry-after"] for r in refused} == {"5"}
            assert time.monotonic() - begun < 15
        assert site.http.get("/v1/batches").json()["data"] == []
        batch = site.batch(file).json()["id"]
        wait_for(lambda: site.status_of(batch) == "completed")
