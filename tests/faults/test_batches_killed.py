"""A batch whose server is killed, whose disk is full, whose last line is torn: every line is answered exactly once."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import waiter
from tuneloop.engines import EngineConfig, FakeConfig
from tuneloop.models import Bundle, open_bundle
from tuneloop.serve import ServeConfig, keys
from tuneloop.store import home

openai = pytest.importorskip("openai", reason="pip install 'tuneloop[dev]'")
pytest.importorskip("python_multipart", reason="pip install 'tuneloop[serve]'")

from tuneloop.serve.batches import run as run_module  # noqa: E402
from tuneloop.serve.batches import worker as worker_module  # noqa: E402
from tuneloop.serve.batches.config import BatchesConfig  # noqa: E402
from tuneloop.serve.batches.results import Outcome, Results  # noqa: E402
from tuneloop.serve.check import running  # noqa: E402

wait_for = waiter(30.0)
LINES = 60
SCRIPT = """
    from pathlib import Path
    from tuneloop import serve
    from tuneloop.engines import EngineConfig, FakeConfig
    fake = FakeConfig(token_delay_s=0.005, answer_ids=(70,) * 40)
    engine = EngineConfig(name="fake", max_running=3, fake=fake)
    serve.run(Path({path!r}), serve.ServeConfig(engine=engine, port=0, model_name="bank"))
"""


@pytest.fixture(scope="module")
def bundle(tiny: Callable[..., Path]) -> Bundle:
    return open_bundle(tiny("llama", "chatml"))


@contextmanager
def serving(bundle: Bundle, key: str) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """A server in a process of its own, and a client; killed at the end."""
    script = textwrap.dedent(SCRIPT.format(path=str(bundle.path)))
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            said = ""
            while not (url := re.search(r"http://[\d.]+:\d+", said)):
                line = server.stderr.readline()
                assert line, said
                said += line
            client = openai.OpenAI(base_url=f"{url.group()}/v1", api_key=key, max_retries=8)
            wait_for(lambda: len(list(client.models.list())) == 1)
            yield server, client
        finally:
            server.kill()


def begin(client: Any, lines: int = LINES) -> str:
    def line(i: int) -> str:
        body = {"messages": [{"role": "user", "content": f"question number {i}"}], "max_tokens": 10 + i % 7}
        return json.dumps({"custom_id": f"r{i}", "method": "POST", "url": "/v1/chat/completions", "body": body}) + "\n"

    text = "".join(map(line, range(lines))).encode()
    file = client.files.create(file=("in.jsonl", text), purpose="batch")
    made = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    return str(made.id)


def output() -> Path:
    """The only file that is written: the largest but the input is the only other one."""
    found = [p for p in (home() / "batches" / "files").iterdir() if b'"response"' in p.read_bytes()[:200]]
    assert len(found) == 1
    return found[0]


def written() -> int:
    try:
        return output().read_bytes().count(b"\n")
    except AssertionError:  # not begun yet
        return 0


def check_whole(client: Any, batch_id: str, lines: int = LINES) -> str:
    """Every line has one answer, its own; returns the file."""
    wait_for(lambda: client.batches.retrieve(batch_id).status == "completed", 60)
    done = client.batches.retrieve(batch_id)
    assert (done.request_counts.completed, done.request_counts.failed, done.errors) == (lines, 0, None)
    text = str(client.files.content(done.output_file_id).text)
    answers = [json.loads(line) for line in text.splitlines()]
    assert sorted(a["custom_id"] for a in answers) == sorted(f"r{i}" for i in range(lines))
    for answer in answers:
        wanted = 10 + int(answer["custom_id"][1:]) % 7
        assert answer["response"]["body"]["usage"]["completion_tokens"] == wanted
    return text


def test_a_batch_whose_server_is_killed_twice_answers_every_line_once(bundle: Bundle) -> None:
    _, key = keys.create("batches", scopes=("chat", "batch"))
    kept, batch_id = "", ""
    for least in (1, 25):
        with serving(bundle, key) as (server, client):
            batch_id = batch_id or begin(client)
            wait_for(lambda least=least: written() >= least)  # type: ignore[misc]
            server.send_signal(signal.SIGKILL)
            server.wait()
            text = output().read_text(encoding="utf-8")
            whole = text[: text.rindex("\n") + 1]
            assert whole.startswith(kept), "what was answered before the kill was made again or lost"
            kept = whole
        with output().open("a", encoding="utf-8") as file:  # as if it had died inside a write
            file.write(kept.splitlines()[0][:70])
    with serving(bundle, key) as (_, client):
        assert client.batches.retrieve(batch_id).status == "in_progress"
        assert check_whole(client, batch_id).startswith(kept)


def test_a_server_that_is_told_to_end_goes_on_with_its_batch_after_the_start(bundle: Bundle) -> None:
    _, key = keys.create("batches", scopes=("chat", "batch"))
    with serving(bundle, key) as (server, client):
        batch_id = begin(client)
        wait_for(lambda: written() >= 5)
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
    kept = output().read_text(encoding="utf-8")
    with serving(bundle, key) as (_, client):
        assert check_whole(client, batch_id).startswith(kept)


def test_a_batch_that_was_not_checked_when_the_server_died_is_not_lost(bundle: Bundle) -> None:
    config = ServeConfig(engine=EngineConfig(name="fake", fake=FakeConfig(answer_ids=(70,) * 40)), model_name="bank")
    with running(config, bundle) as (_, url, key):  # a gateway that runs no batches
        batch_id = begin(openai.OpenAI(base_url=f"{url}/v1", api_key=key), 3)
    with running(config, bundle, batches=True) as (_, url, key):
        check_whole(openai.OpenAI(base_url=f"{url}/v1", api_key=key), batch_id, 3)


def test_of_two_gateways_with_one_folder_only_one_works_and_the_other_takes_over(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "POLL_S", 0.1)
    monkeypatch.setattr(worker_module, "RETRY_S", 0.2)
    fake = FakeConfig(token_delay_s=0.005, answer_ids=(70,) * 40)
    config = ServeConfig(engine=EngineConfig(name="fake", max_running=2, fake=fake), model_name="bank")
    with running(config, bundle, batches=True) as (second, url, key):
        with running(config, bundle, batches=True) as (first, other_url, other_key):
            batch_id = begin(openai.OpenAI(base_url=f"{other_url}/v1", api_key=other_key))
            wait_for(lambda: written() >= 5)
            assert (first.process.in_flight > 0) != (second.process.in_flight > 0)
        check_whole(openai.OpenAI(base_url=f"{url}/v1", api_key=key), batch_id)


def test_a_gateway_with_another_folder_leaves_a_batch_to_the_gateway_that_has_its_file(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(worker_module, "POLL_S", 0.05)
    fake = EngineConfig(name="fake", fake=FakeConfig(answer_ids=(70,) * 40))
    mine, other = (
        ServeConfig(engine=fake, model_name="bank", batches=BatchesConfig(folder=tmp_path / name)) for name in "ab"
    )
    with running(mine, bundle) as (_, url, key):  # a gateway that runs no batches
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=key)
        batch_id = begin(client, 3)
        with running(other, bundle, batches=True):
            time.sleep(0.5)
            assert client.batches.retrieve(batch_id).status == "validating"
        (tmp_path / "a").rename(tmp_path / "moved")
        with running(mine, bundle, batches=True):  # the same path on a machine that has not the files
            time.sleep(0.5)
            assert client.batches.retrieve(batch_id).status == "validating"
    assert capfd.readouterr().err.count("left to the gateway") == 2, "once each"
    moved = mine.model_copy(update={"batches": BatchesConfig(folder=tmp_path / "moved")})
    with running(moved, bundle, batches=True) as (_, url, key):  # what counts is where the file is
        check_whole(openai.OpenAI(base_url=f"{url}/v1", api_key=key), batch_id, 3)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_makes_a_batch_wait_and_say_so(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(worker_module, "RETRY_S", 0.2)
    monkeypatch.setattr(run_module, "LOOK_S", 0.1)
    fake = FakeConfig(token_delay_s=0.005, answer_ids=(70,) * 40)
    config = ServeConfig(engine=EngineConfig(name="fake", max_running=2, fake=fake), model_name="bank")
    real, full = os.fsync, [False]

    def fsync(handle: int) -> None:
        if full[0]:
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with running(config, bundle, batches=True) as (_, url, key):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
        batch_id = begin(client)
        wait_for(lambda: written() >= 5)
        full[0] = True
        wait_for(lambda: client.batches.retrieve(batch_id).errors is not None)
        waiting = client.batches.retrieve(batch_id)
        assert (waiting.status, waiting.errors.data[0].code) == ("in_progress", "disk")
        with pytest.raises(openai.InternalServerError) as caught:
            client.files.create(file=("more.jsonl", b"{}"), purpose="batch")
        assert caught.value.status_code == (507 if number == errno.ENOSPC else 500)
        kept = output().read_text(encoding="utf-8")
        assert kept.endswith("\n")  # what was written in vain is gone again
        full[0] = False
        assert check_whole(client, batch_id).startswith(kept)
        assert len(list((home() / "batches" / "files").iterdir())) == 2  # the refused upload left nothing


@pytest.mark.parametrize(
    "tail", [b'{"custom_id": "r2", "resp', b"\0" * 50, b"\0" * 50 + b"\n", b'{"other": 1}\n', b"7\n"]
)
def test_what_was_torn_is_dropped_and_what_was_whole_is_kept(tmp_path: Path, tail: bytes) -> None:
    def results() -> Results:
        found = Results(tmp_path / "out", tmp_path / "errors")
        found.resume()
        return found

    results().append([Outcome("r0", 200, {"a": "é\ud800"}), Outcome("r1", 400, {}), Outcome("\ud800", 200)])
    whole = (tmp_path / "out").read_bytes()
    with (tmp_path / "out").open("ab") as file:
        file.write(tail)
    again = results()
    assert (again.done, again.completed, again.failed) == ({"r0", "r1", "\ud800"}, 2, 1)
    assert (tmp_path / "out").read_bytes() == whole
    again.append([Outcome("r2", 200)])
    assert results().completed == 3
