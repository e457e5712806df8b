"""Files and batches over real sockets with the official client: answers, refusals, owners, quotas, live traffic first."""

from __future__ import annotations

import io
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import waiter
from tuneloop.engines import EngineConfig, FakeConfig
from tuneloop.models import Bundle, open_bundle
from tuneloop.serve import ServeConfig
from tuneloop.store import home

httpx = pytest.importorskip("httpx", reason="pip install 'tuneloop[serve]'")
openai = pytest.importorskip("openai", reason="pip install 'tuneloop[dev]'")
pytest.importorskip("python_multipart", reason="pip install 'tuneloop[serve]'")

from tuneloop.serve.api_error import ApiError  # noqa: E402
from tuneloop.serve.batches import run as run_module  # noqa: E402
from tuneloop.serve.batches import worker as worker_module  # noqa: E402
from tuneloop.serve.batches.config import BatchesConfig  # noqa: E402
from tuneloop.serve.check import running  # noqa: E402
from tuneloop.serve.gateway import Gateway  # noqa: E402
from tuneloop.serve.keys import KeyRing  # noqa: E402

wait_for = waiter(10.0)
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ENDED = ("completed", "failed", "expired", "cancelled")


class Site:
    """A running gateway and a client for it."""

    def __init__(self, gateway: Gateway, url: str, key: str) -> None:
        self.gateway, self.url, self.key = gateway, url, key
        self.client: Any = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
        self.headers = {"Authorization": f"Bearer {key}"}

    def upload(self, *lines: Any) -> str:
        text = "".join(
            (line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)) + "\n" for line in lines
        )
        return str(self.client.files.create(file=("in.jsonl", text.encode()), purpose="batch").id)

    def batch(self, *lines: Any, endpoint: str = CHAT, window: str = "24h", **more: Any) -> Any:
        file = self.upload(*lines)
        return self.client.batches.create(input_file_id=file, endpoint=endpoint, completion_window=window, **more)

    def ended(self, batch_id: str, patience_s: float = 30.0) -> Any:
        deadline = time.monotonic() + patience_s
        while (batch := self.client.batches.retrieve(batch_id)).status not in ENDED:
            assert time.monotonic() < deadline, batch
            time.sleep(0.05)
        return batch

    def lines(self, file_id: str) -> dict[str, dict[str, Any]]:
        """custom_id -> line of a file; fails where one is there twice."""
        out: dict[str, dict[str, Any]] = {}
        for text in self.client.files.content(file_id).text.splitlines():
            line = json.loads(text)
            assert line["custom_id"] not in out
            out[line["custom_id"]] = line
        return out


def line(custom_id: str, url: str = CHAT, method: str = "POST", **body: Any) -> dict[str, Any]:
    said = {"messages": [{"role": "user", "content": f"question {custom_id}"}]} if url == CHAT else {"prompt": f"text {custom_id}"}  # fmt: skip
    return {"custom_id": custom_id, "method": method, "url": url, "body": said | body}


@pytest.fixture(scope="module")
def bundle(tiny: Callable[..., Path]) -> Bundle:
    return open_bundle(tiny("llama", "chatml"))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "POLL_S", 0.1)
    monkeypatch.setattr(worker_module, "RETRY_S", 0.2)
    monkeypatch.setattr(run_module, "LOOK_S", 0.1)


@pytest.fixture(scope="module")
def fast(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_module, "POLL_S", 0.1)
        patch.setenv("TUNELOOP_HOME", str(tmp_path_factory.mktemp("home")))
        with running(ServeConfig(engine=EngineConfig(name="fake"), model_name="bank"), bundle, batches=True) as known:
            yield Site(*known)


@pytest.fixture
def site(bundle: Bundle) -> Iterator[Site]:
    quotas = BatchesConfig(max_file_bytes=200_000, max_stored_bytes=400_000, max_lines=60, max_open=2)
    with running(
        ServeConfig(engine=EngineConfig(name="fake"), model_name="bank", batches=quotas), bundle, batches=True
    ) as known:
        yield Site(*known)


@pytest.fixture
def slow(bundle: Bundle) -> Iterator[Site]:
    """Two places, two more in the queue, 50 tokens a second."""
    engine = EngineConfig(name="fake", max_running=2, fake=FakeConfig(token_delay_s=0.02, answer_ids=(70,) * 400))
    with running(ServeConfig(engine=engine, max_queue=2), bundle, batches=True) as known:
        yield Site(*known)


def known(body: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in body.items() if k not in ("id", "created")}


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS])
def test_every_line_gets_what_the_live_route_answers(fast: Site, endpoint: str) -> None:
    given = [line(f"r{i}", endpoint, n=1 + i % 3, max_tokens=4 + i % 5, temperature=0.5, seed=i) for i in range(30)]
    given.append(line("问", endpoint, logprobs=True if endpoint == CHAT else 0))
    done = fast.ended(fast.batch(*given, endpoint=endpoint, metadata={"team": "cards"}).id)
    assert (done.status, done.request_counts.total, done.request_counts.completed) == ("completed", 31, 31)
    assert (done.error_file_id, done.metadata, done.object) == (None, {"team": "cards"}, "batch")
    assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at < done.expires_at
    found = fast.lines(done.output_file_id)
    for asked in given:
        live = httpx.post(f"{fast.url}{endpoint}", json=asked["body"], headers=fast.headers).json()
        told = found.pop(asked["custom_id"])
        assert (told["error"], told["response"]["status_code"]) == (None, 200)
        assert told["response"]["request_id"] == told["response"]["body"]["id"]
        assert known(told["response"]["body"]) == known(live)
    assert not found


def test_a_request_that_can_only_fail_when_it_runs_stands_in_the_error_file(fast: Site) -> None:
    done = fast.ended(fast.batch(line("good"), line("long", max_tokens=1_000_000)).id)
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("completed", 1, 1)
    told = fast.lines(done.error_file_id)["long"]
    assert told["response"]["status_code"] == 400
    assert told["response"]["body"]["error"]["code"] == "context_length_exceeded"
    assert list(fast.lines(done.output_file_id)) == ["good"]


@pytest.mark.parametrize(
    ("bad", "code", "param"),
    [
        ("{", "invalid_json_line", None),
        ("[" * 100_000, "invalid_json_line", None),
        ("[" * 700 + "]" * 700, "invalid_json_line", None),
        ('"text"', "invalid_value", None),
        ({"custom_id": "x", "method": "POST", "url": CHAT}, "invalid_value", "body"),
        (line("x") | {"custom_id": 7}, "invalid_value", "custom_id"),
        (line("x") | {"custom_id": ""}, "invalid_value", "custom_id"),
        (line("x", method="GET"), "invalid_value", "method"),
        (line("x") | {"more": 1}, "unknown_parameter", "more"),
        (line("first"), "duplicate_custom_id", "custom_id"),
        (line("x", COMPLETIONS), "mismatched_url", "url"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_line_fails_the_batch_with_its_number(fast: Site, bad: Any, code: str, param: str | None) -> None:
    done = fast.ended(fast.batch(line("first"), "", bad, line("last")).id)
    assert (done.status, done.output_file_id, done.error_file_id) == ("failed", None, None)
    (problem,) = done.errors.data
    assert (problem.line, problem.code, problem.param) == (3, code, param)


def test_a_body_that_cannot_be_answered_fails_its_line_only_with_what_the_live_route_says(fast: Site) -> None:
    bad = {
        "hot": line("hot", temperature=3),
        "field": line("field", no_such_field=1),
        "model": line("model", model="gpt-4"),
        "empty": line("empty", messages=[]),
    }
    done = fast.ended(fast.batch(line("first"), *bad.values(), line("stream", stream=True), line("last")).id)
    counts = done.request_counts
    assert (done.status, counts.total, counts.completed, counts.failed) == ("completed", 7, 2, 5)
    assert set(fast.lines(done.output_file_id)) == {"first", "last"}
    told = {name: said["response"] for name, said in fast.lines(done.error_file_id).items()}
    stream = told.pop("stream")
    assert (stream["status_code"], stream["body"]["error"]["param"]) == (400, "stream")
    assert told.keys() == bad.keys()
    for name, asked in bad.items():
        live = httpx.post(f"{fast.url}{CHAT}", json=asked["body"], headers=fast.headers)
        assert (told[name]["status_code"], told[name]["body"]) == (live.status_code, live.json())
        assert told[name]["request_id"]


def test_every_wrong_line_is_told(fast: Site) -> None:
    done = fast.ended(fast.batch(line("a"), "{", line("a"), line("b"), "[]").id)
    assert [p.line for p in done.errors.data] == [2, 3, 5]


def test_too_many_lines_are_refused(site: Site) -> None:
    done = site.ended(site.batch(*(line(str(i)) for i in range(61))).id)
    assert [(p.code, p.line) for p in done.errors.data] == [("too_many_requests", 61)]


def test_files_are_kept_listed_in_pages_and_deleted(site: Site) -> None:
    ids = [site.upload(line(str(i))) for i in range(5)]
    assert [f.id for f in site.client.files.list(limit=2)] == ids[::-1]  # the client asks for the pages itself
    assert [f.id for f in site.client.files.list(order="asc", purpose="batch")] == ids
    assert list(site.client.files.list(purpose="batch_output")) == []
    kept = site.client.files.retrieve(ids[0])
    assert (kept.filename, kept.purpose, kept.status) == ("in.jsonl", "batch", "processed")
    text = site.client.files.content(ids[0]).read()
    assert (len(text), json.loads(text)) == (kept.bytes, line("0"))
    assert site.client.files.delete(ids[0]).deleted
    for ask in (site.client.files.retrieve, site.client.files.content, site.client.files.delete):
        with pytest.raises(openai.NotFoundError):
            ask(ids[0])
    assert not list(Path(home() / "batches" / "files").glob(f"*{ids[0]}*"))


def test_half_a_surrogate_pair_is_a_400_or_404_and_a_lost_content_a_404(site: Site) -> None:
    broken = b'{"input_file_id": "\\ud800", "endpoint": "/v1/completions", "completion_window": "24h"}'
    headers = site.headers | {"Content-Type": "application/json"}
    assert httpx.post(f"{site.url}/v1/batches", content=broken, headers=headers).status_code == 400
    file = site.upload('{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"\\ud800": 1}}')
    body = {"input_file_id": file, "endpoint": COMPLETIONS, "completion_window": "24h", "metadata": {"a": "\\ud800"}}
    text = json.dumps(body).replace("\\\\ud800", "\\ud800")  # half a pair, as JSON writes it
    assert httpx.post(f"{site.url}/v1/batches", content=text, headers=headers).status_code == 400
    wrong = site.client.batches.create(input_file_id=file, endpoint=COMPLETIONS, completion_window="24h")
    assert site.lines(site.ended(wrong.id).error_file_id)["a"]["response"]["status_code"] == 400
    assert list(site.client.files.list(purpose="\x00")) == []
    for path in ("/v1/files/%ED%A0%80", "/v1/files/%00", "/v1/batches/%ff", "/v1/files/..%2f..%2fetc%2fpasswd/content"):
        assert httpx.get(f"{site.url}{path}", headers=site.headers).status_code == 404
    file = site.upload(line("a"))
    (home() / "batches" / "files" / file).unlink()
    with pytest.raises(openai.NotFoundError, match="gone from the disk"):
        site.client.files.content(file)
    assert site.ended(site.batch(line("b")).id).status == "completed"


def test_an_input_that_vanishes_fails_its_batch_by_name(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site.gateway, "draining", True)  # checked, and not begun
    batch = site.batch(line("a"))
    wait_for(lambda: site.client.batches.retrieve(batch.id).status == "in_progress")
    (home() / "batches" / "files" / batch.input_file_id).unlink()
    monkeypatch.setattr(site.gateway, "draining", False)
    done = site.ended(batch.id)
    assert (done.status, done.errors.data[0].code) == ("failed", "missing_file")


def test_batches_are_listed_newest_first_in_pages(site: Site) -> None:
    ids = [site.ended(site.batch(line("a")).id).id for _ in range(3)]
    assert [b.id for b in site.client.batches.list(limit=1)] == ids[::-1]


@pytest.mark.parametrize("after", ["nothing", "\x00", "batch_0123"])
def test_a_page_after_what_does_not_exist_is_a_404_and_no_empty_list(fast: Site, after: str) -> None:
    for kind in ("batches", "files"):
        reply = httpx.get(f"{fast.url}/v1/{kind}", params={"after": after}, headers=fast.headers)
        assert (reply.status_code, reply.json()["error"]["param"]) == (404, "after")


@pytest.mark.parametrize(
    ("form", "file", "param"),
    [
        ({"purpose": "fine-tune"}, b"{}", "purpose"),
        ({}, b"{}", "purpose"),
        ({"purpose": "batch"}, None, "file"),
        ({"purpose": "batch"}, b"", "file"),
        ({"purpose": "batch", "expires_after[anchor]": "created_at"}, b"{}", "expires_after[anchor]"),
    ],
)
def test_an_upload_that_is_not_for_a_batch_is_refused_by_name(
    fast: Site, form: dict[str, str], file: bytes | None, param: str
) -> None:
    files = (
        {"file": ("x.jsonl", file)} if file is not None else {"other": ("x", b"x")} if "purpose" not in form else None
    )
    reply = httpx.post(f"{fast.url}/v1/files", data=form, files=files, headers=fast.headers)
    assert (reply.status_code, reply.json()["error"]["param"]) in ((400, param), (400, "other"))


def test_a_body_that_is_no_form_is_a_400(fast: Site) -> None:
    for content, kind in ((b"{}", "application/json"), (b"--x\r\nbroken", "multipart/form-data; boundary=x")):
        headers = fast.headers | {"Content-Type": kind}
        assert httpx.post(f"{fast.url}/v1/files", content=content, headers=headers).status_code == 400


def test_an_upload_is_bounded_in_size_and_a_key_in_what_it_keeps(site: Site) -> None:
    for size in (200_001, 300_000):  # refused by the route, and by the door before it is read
        reply = httpx.post(
            f"{site.url}/v1/files", data={"purpose": "batch"}, files={"file": b"x" * size}, headers=site.headers
        )
        assert reply.status_code == 413
    big = "x" * 190_000
    first = site.upload(big)
    site.upload(big)
    with pytest.raises(openai.PermissionDeniedError, match="delete some"):
        site.upload(big)
    site.client.files.delete(first)
    site.upload(big)


def test_other_routes_keep_their_own_limit(fast: Site) -> None:
    reply = httpx.post(f"{fast.url}/v1/batches", content=b" " * 1_100_000, headers=fast.headers)
    assert reply.status_code == 413


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "tomorrow"}, "completion_window"),
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"input_file_id": "../../etc/passwd"}, "input_file_id"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3600}}, "output_expires_after"),
        ({"other": 1}, "other"),
    ],
)
def test_a_batch_that_cannot_be_obeyed_is_refused_by_name(fast: Site, change: dict[str, Any], param: str) -> None:
    body = {"input_file_id": fast.upload(line("a")), "endpoint": CHAT, "completion_window": "24h"} | change
    reply = httpx.post(f"{fast.url}/v1/batches", json=body, headers=fast.headers)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


def test_a_key_sees_only_its_own(fast: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    done = fast.ended(fast.batch(line("mine")).id)
    mine = fast.gateway.ring.keys
    other = tuple(KeyRing.of("a", "other", scopes=("chat", "batch")).keys[1:])  # its id is not that of the first key
    monkeypatch.setattr(fast.gateway, "ring", KeyRing((*mine, *other)))
    stranger = openai.OpenAI(base_url=f"{fast.url}/v1", api_key="other", max_retries=0)
    assert list(stranger.files.list()) == list(stranger.batches.list()) == []
    for ask in (
        lambda: stranger.batches.retrieve(done.id),
        lambda: stranger.batches.cancel(done.id),
        lambda: stranger.files.retrieve(done.input_file_id),
        lambda: stranger.files.content(done.output_file_id),
        lambda: stranger.files.delete(done.output_file_id),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()
    with pytest.raises(openai.BadRequestError):
        stranger.batches.create(input_file_id=done.input_file_id, endpoint=CHAT, completion_window="24h")


def test_a_cancelled_batch_keeps_what_is_done_and_says_what_is_not(slow: Site) -> None:
    batch = slow.batch(*(line(f"r{i}", max_tokens=10) for i in range(40)))
    wait_for(lambda: slow.client.batches.retrieve(batch.id).request_counts.completed >= 2)
    assert slow.client.batches.cancel(batch.id).status == "cancelling"
    done = slow.ended(batch.id)
    assert done.status == "cancelled"
    wait_for(lambda: slow.gateway.process.in_flight == 0)  # the engine says itself that it has let go
    answered, left = slow.lines(done.output_file_id), slow.lines(done.error_file_id)
    assert {told["error"]["code"] for told in left.values()} == {"batch_cancelled"}
    assert sorted((*answered, *left)) == sorted(f"r{i}" for i in range(40))
    assert (len(answered), len(left)) == (done.request_counts.completed, done.request_counts.failed)
    with pytest.raises(openai.BadRequestError):
        slow.client.batches.cancel(slow.ended(slow.batch(line("a", max_tokens=1)).id).id)


def test_a_batch_that_waits_behind_another_can_be_cancelled_and_its_file_deleted_only_then(slow: Site) -> None:
    slow.batch(*(line(f"r{i}", max_tokens=50) for i in range(20)))
    second = slow.batch(line("later"))
    with pytest.raises(openai.BadRequestError, match="has not ended"):
        slow.client.files.delete(second.input_file_id)
    slow.client.batches.cancel(second.id)
    assert slow.ended(second.id, 5).status == "cancelled"
    assert slow.client.files.delete(second.input_file_id).deleted


def test_a_batch_that_takes_too_long_expires_with_what_is_done(slow: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = slow.batch(*(line(f"r{i}", max_tokens=10) for i in range(40)), window="1m")
    wait_for(lambda: slow.client.batches.retrieve(batch.id).request_counts.completed >= 2)
    later = time.time() + 61
    monkeypatch.setattr(run_module.time, "time", lambda: later)
    done = slow.ended(batch.id)
    assert done.status == "expired"
    left = slow.lines(done.error_file_id)
    assert {told["error"]["code"] for told in left.values()} == {"batch_expired"}
    assert len(left) + len(slow.lines(done.output_file_id)) == 40


def test_a_key_has_a_bounded_number_of_open_batches(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site.gateway, "draining", True)  # nothing runs
    for _ in range(2):
        site.batch(line("a"))
    with pytest.raises(openai.RateLimitError):
        site.batch(line("a"))


def test_live_requests_come_first_and_see_the_whole_queue(slow: Site) -> None:
    batch = slow.batch(*(line(f"r{i}", max_tokens=400) for i in range(3)))  # 8 s each
    wait_for(lambda: slow.gateway.process.in_flight == 2)

    def live(_: int) -> tuple[int, float]:
        began = time.monotonic()
        body = {"messages": [{"role": "user", "content": "now"}], "max_tokens": 5}
        reply = httpx.post(f"{slow.url}{CHAT}", json=body, headers=slow.headers, timeout=20)
        return reply.status_code, time.monotonic() - began

    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(live, range(4)))  # two places and two in the queue: as if there were no batch
    assert [status for status, _ in told] == [200] * 4
    assert max(seconds for _, seconds in told) < 3  # not the 8 s of a request of the batch
    assert slow.client.batches.retrieve(batch.id).status == "in_progress"
    wait_for(lambda: slow.gateway.process.in_flight == 2)  # and then the batch goes on
    slow.client.batches.cancel(batch.id)
    slow.ended(batch.id)


def test_batches_use_no_more_places_than_they_may(bundle: Bundle) -> None:
    engine = EngineConfig(name="fake", max_running=4, fake=FakeConfig(token_delay_s=0.005, answer_ids=(70,) * 40))
    config = ServeConfig(engine=engine, batches=BatchesConfig(concurrency=2))
    with running(config, bundle, batches=True) as known:
        site, most = Site(*known), 0
        batch = site.batch(*(line(f"r{i}", max_tokens=20) for i in range(12)))
        while site.client.batches.retrieve(batch.id).status not in ENDED:
            most = max(most, site.gateway.process.in_flight)
        assert most == 2
        assert len(site.lines(site.ended(batch.id).output_file_id)) == 12
        more_than_places = site.ended(site.batch(line("many", n=10, max_tokens=5)).id)
        answer = site.lines(more_than_places.output_file_id)["many"]
        assert len(answer["response"]["body"]["choices"]) == 10


def test_a_dead_engine_costs_a_batch_nothing(slow: Site) -> None:
    import os
    import signal

    batch = slow.batch(*(line(f"r{i}", max_tokens=20) for i in range(6)))
    wait_for(lambda: slow.client.batches.retrieve(batch.id).request_counts.completed >= 2)
    os.kill(slow.gateway.process.pid or 0, signal.SIGKILL)
    done = slow.ended(batch.id)
    assert (done.status, done.request_counts.completed) == ("completed", 6)


def test_a_revoked_key_ends_its_batches(slow: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = slow.batch(*(line(f"r{i}", max_tokens=20) for i in range(40)))
    wait_for(lambda: slow.gateway.process.in_flight == 2)
    mine = slow.gateway.ring
    slow.gateway.ring = KeyRing()
    wait_for(lambda: slow.gateway.process.in_flight == 0)
    time.sleep(1.0)
    slow.gateway.ring = mine
    done = slow.ended(batch.id)
    assert (done.status, done.errors.data[0].code) == ("cancelled", "key_revoked")


def test_a_locked_database_is_a_503_and_loses_nothing(slow: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = slow.batch(*(line(f"r{i}", max_tokens=10) for i in range(10)))
    wait_for(lambda: slow.gateway.process.in_flight == 2)
    with closing(sqlite3.connect(home() / "tuneloop.db", isolation_level=None)) as held:
        held.execute("BEGIN EXCLUSIVE")
        reply = httpx.post(
            f"{slow.url}/v1/files", data={"purpose": "batch"}, files={"file": io.BytesIO(b"{}")},
            headers=slow.headers, timeout=30,
        )  # fmt: skip
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "storage_unavailable")
        assert "retry-after" in reply.headers
        live = httpx.post(f"{slow.url}{CHAT}", json=line("x", max_tokens=2)["body"], headers=slow.headers, timeout=20)
        assert live.status_code == 200  # others do not notice
        held.execute("ROLLBACK")
    done = slow.ended(batch.id)
    assert (done.status, len(slow.lines(done.output_file_id))) == ("completed", 10)
    assert len(list((home() / "batches" / "files").iterdir())) == 2  # the refused upload left nothing


def test_a_quota_that_is_used_up_makes_a_batch_wait_and_costs_no_line(
    fast: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    begin = run_module.Answering.begin

    async def refused_at_first(*args: Any) -> Any:
        asked.append(time.monotonic())
        if len(asked) <= 3:
            raise ApiError(429, "no tokens left", code="tokens_per_minute", headers={"Retry-After": "1"})
        return await begin(*args)

    monkeypatch.setattr(run_module.Answering, "begin", refused_at_first)
    done = fast.ended(fast.batch(*(line(f"r{i}") for i in range(3))).id)
    assert (done.request_counts.completed, done.request_counts.failed) == (3, 0)
    assert asked[3] - asked[0] > 0.9  # it waited as long as it was told, and did not ask all the time
