from __future__ import annotations

import pytest

from tuneloop.engines import EngineConfig, FakeConfig, create, generate
from tuneloop.engines.fake import FakeEngine
from tuneloop.types import Request, Sampling, TokenEvent


def engine(**config: object) -> FakeEngine:
    return FakeEngine(None, EngineConfig(name="fake", **config))  # type: ignore[arg-type]


def test_responses_come_in_request_order_whatever_ends_first() -> None:
    requests = [Request(str(n), tuple(range(1, 30)), Sampling(max_tokens=n)) for n in (9, 1, 5)]
    responses = generate(engine(), requests)
    assert [(r.request_id, len(r.token_ids)) for r in responses] == [("9", 9), ("1", 1), ("5", 5)]


def test_a_refused_request_is_a_response_with_the_reason() -> None:
    good, bad = Request("good", (1, 2), Sampling(max_tokens=1)), Request("bad", ())
    responses = generate(engine(), [bad, good])
    assert (responses[0].finish, responses[0].error) == ("error", "the prompt is empty")
    assert responses[1].finish == "length"


def test_times_are_since_submission() -> None:
    slow = engine(fake=FakeConfig(token_delay_s=0.02))
    response = generate(slow, [Request("r", (1, 2, 3, 4, 5), Sampling(max_tokens=4))])[0]
    assert 0.02 <= response.first_token_s < response.total_s
    assert response.total_s >= 0.08


def test_a_token_without_a_logprob_makes_the_list_unusable() -> None:
    class Gappy(FakeEngine):
        def poll(self, timeout_s: float) -> list[TokenEvent]:
            return [TokenEvent("r", (1,), (-0.5,)), TokenEvent("r", (2,)), TokenEvent("r", finish="stop")]

    response = generate(Gappy(None, EngineConfig(name="fake")), [Request("r", (1,))])[0]
    assert (response.token_ids, response.logprobs) == ((1, 2), ())


def test_the_same_id_twice_is_a_programmers_error() -> None:
    with pytest.raises(ValueError, match="same id"):
        generate(engine(), [Request("r", (1,)), Request("r", (2,))])


def test_an_interruption_cancels_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = engine()
    cancelled: list[str] = []
    monkeypatch.setattr(busy, "cancel", cancelled.append)
    monkeypatch.setattr(busy, "poll", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        generate(busy, [Request("a", (1,)), Request("b", (1,))])
    assert cancelled == ["a", "b"]


def test_no_more_than_concurrency_are_in_flight() -> None:
    class Counting(FakeEngine):
        most = 0

        def submit(self, request: Request) -> None:
            super().submit(request)
            self.most = max(self.most, len(self._running) + len(self._waiting))

    counting = Counting(None, EngineConfig(name="fake"))
    generate(counting, [Request(str(i), (1, 2, 3), Sampling(max_tokens=2)) for i in range(20)], concurrency=3)
    assert counting.most == 3


def test_nothing_to_do_is_fine() -> None:
    assert generate(create(EngineConfig(name="fake"), None), []) == []
