"""The HTTP client, against a real server."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.chat_server import Reply, Server, serving
from tuneloop.data.makers import Around
from tuneloop.data.makers.asking import Query
from tuneloop.data.makers.endpoint import Endpoint, EndpointConfig, retry_after
from tuneloop.errors import ConfigError, ServeError


def echo(body: dict[str, Any], before: int) -> Reply:
    return Reply(body["messages"][-1]["content"].upper())


def query(text: str, number: int = 0) -> Query:
    return Query(({"role": "user", "content": text},), number)


def around(tmp_path: Path) -> Around:
    return Around(0, {}, tmp_path, name="synthesise")


def endpoint(server: Server, tmp_path: Path, **options: Any) -> Endpoint:
    config = EndpointConfig(url=server.url, model="m", **{"backoff_s": 0.01, **options})
    return Endpoint(config, around(tmp_path))


def test_answers_come_in_the_order_of_the_queries(tmp_path: Path) -> None:
    def slow_first(body: dict[str, Any], before: int) -> Reply:
        time.sleep(0.1 if body["messages"][-1]["content"] == "q0" else 0)
        return echo(body, before)

    with serving(slow_first) as server:
        answers = endpoint(server, tmp_path)([query(f"q{k}") for k in range(6)])
    assert [a.text for a in answers] == [f"Q{k}" for k in range(6)]


def test_model_params_and_key_are_sent_and_the_key_is_stored_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    with serving(echo) as server:
        endpoint(server, tmp_path, key_env="MY_KEY", params={"temperature": 0.5, "max_tokens": 9})([query("a")])
    body, headers = server.requests[0]
    assert body == {"model": "m", "temperature": 0.5, "max_tokens": 9, "messages": [{"role": "user", "content": "a"}]}
    assert headers["Authorization"] == "Bearer sk-secret-123"
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert files
    assert not any(b"sk-secret" in p.read_bytes() for p in files)


def test_a_key_that_is_not_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ConfigError, match="MY_KEY is not set"):
        EndpointConfig(url="http://127.0.0.1:1/v1", model="m", key_env="MY_KEY").key()


@pytest.mark.parametrize("url", ["ftp://x", "x.example/v1", "https://me:pw@x.example/v1", "https://x.example/v1?key=1"])
def test_addresses_with_secrets_or_without_http_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="address"):
        EndpointConfig(url=url, model="m")


def test_never_more_under_way_than_allowed(tmp_path: Path) -> None:
    def slowly(body: dict[str, Any], before: int) -> Reply:
        time.sleep(0.05)
        return echo(body, before)

    with serving(slowly) as server:
        endpoint(server, tmp_path, concurrency=3)([query(f"q{k}") for k in range(12)])
    assert server.most_under_way == 3


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_failures_are_asked_again(tmp_path: Path, status: int) -> None:
    with serving(lambda body, before: echo(body, before) if before >= 2 else Reply("busy", status)) as server:
        answers = endpoint(server, tmp_path)([query("a"), query("b")])
    assert [a.text for a in answers] == ["A", "B"]
    assert sorted(server.received.values()) == [3, 3]


def test_a_closed_connection_is_asked_again(tmp_path: Path) -> None:
    with serving(echo) as server:
        url = server.url
    with pytest.raises(ServeError, match="no answer: ConnectError") as found:
        Endpoint(EndpointConfig(url=url, model="m", backoff_s=0.01, retries=2), around(tmp_path))([query("a")])
    assert "not paid again" in str(found.value.hint)


def test_retry_after_is_waited_for(tmp_path: Path) -> None:
    def later(body: dict[str, Any], before: int) -> Reply:
        return echo(body, before) if before else Reply("slow down", 429, {"Retry-After": "0.3"})

    clock = time.monotonic()
    with serving(later) as server:
        endpoint(server, tmp_path)([query("a")])
    assert time.monotonic() - clock >= 0.3


def test_a_rest_longer_than_allowed_ends_the_run(tmp_path: Path) -> None:
    with (
        serving(lambda body, before: Reply("quota", 429, {"Retry-After": "3600"})) as server,
        pytest.raises(ServeError, match="it wants 3600 s of rest"),
    ):
        endpoint(server, tmp_path)([query("a")])
    assert server.received.total() == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ("-1", 0.0), ("Sun, 06 Nov 1994 08:49:37 GMT", 30.0), ("soon", None), (None, None)],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    # RFC 9110, 5.6.7 gives this date as an example; it is 784111777 in Unix time
    assert retry_after(header, 784111747.0) == seconds


def test_a_refused_key_ends_the_run_at_once(tmp_path: Path) -> None:
    with (
        serving(lambda body, before: Reply({"error": "bad key"}, 401)) as server,
        pytest.raises(ServeError, match="HTTP 401") as found,
    ):
        endpoint(server, tmp_path, concurrency=1)([query(f"q{k}") for k in range(20)])
    assert server.received.total() < 20
    assert "check url, model (m)" in str(found.value.hint)


def test_a_refused_request_is_an_answer_among_others_and_is_not_kept(tmp_path: Path) -> None:
    def picky(body: dict[str, Any], before: int) -> Reply:
        bad = body["messages"][-1]["content"] == "bad"
        return Reply({"error": "content filter"}, 400) if bad else echo(body, before)

    with serving(picky) as server:
        good, bad = endpoint(server, tmp_path)([query("good"), query("bad")])
    assert (good.text, bad.text) == ("GOOD", "")
    assert str(bad.refused).startswith("HTTP 400")
    assert len(list((tmp_path / "answers").iterdir())) == 1


def test_when_every_request_is_refused_the_reason_is_told(tmp_path: Path) -> None:
    with (
        serving(lambda body, before: Reply({"error": "unknown parameter"}, 400)) as server,
        pytest.raises(ServeError, match="every request was refused, the first: HTTP 400"),
    ):
        endpoint(server, tmp_path)([query("a"), query("b")])


@pytest.mark.parametrize("body", [{"hello": 1}, {"choices": []}, {"choices": [{}]}, [1]])
def test_what_is_no_chat_completion_is_told(tmp_path: Path, body: Any) -> None:
    with (
        serving(lambda asked, before: Reply(body)) as server,
        pytest.raises(ServeError, match="not a chat completion"),
    ):
        endpoint(server, tmp_path)([query("a")])


def test_an_answer_too_late_is_a_failure(tmp_path: Path) -> None:
    def first_late(body: dict[str, Any], before: int) -> Reply:
        if not before:
            time.sleep(0.5)
        return echo(body, before)

    with serving(first_late) as server:
        answers = endpoint(server, tmp_path, timeout_s=0.15)([query("a")])
        time.sleep(0.5)
    assert answers[0].text == "A"


def test_cached_answers_are_not_asked_for(tmp_path: Path) -> None:
    with serving(echo) as server:
        endpoint(server, tmp_path)([query("a"), query("b")])
        second = endpoint(server, tmp_path)
        second([query("b"), query("c"), query("c")])
    assert [body["messages"][0]["content"] for body, _ in server.requests[2:]] == ["c"]
    assert second.bill() == {"requests": 2, "cached": 1, "tokens_in": 200, "tokens_out": 80}


@pytest.mark.parametrize("other", [{"model": "n"}, {"params": {"temperature": 0.1}}])
def test_another_model_or_parameter_is_asked_anew(tmp_path: Path, other: Mapping[str, Any]) -> None:
    with serving(echo) as server:
        endpoint(server, tmp_path)([query("a")])
        changed = EndpointConfig(**{"url": server.url, "model": "m", **other})
        Endpoint(changed, around(tmp_path))([query("a")])
    assert server.received.total() == 2


def test_the_same_question_with_another_number_is_another_draw(tmp_path: Path) -> None:
    with serving(echo) as server:
        endpoint(server, tmp_path)([query("a", 1), query("a", 2)])
    assert server.received.total() == 2


def test_cost_is_counted_where_prices_are_known(tmp_path: Path) -> None:
    with serving(echo) as server:
        asker = endpoint(server, tmp_path, price_in=2.0, price_out=10.0)
        asker([query("a"), query("b")])
    # 2 answers of 100 and 40 tokens: 200 * 2 / 10^6 + 80 * 10 / 10^6
    assert asker.bill()["cost"] == 0.0012
