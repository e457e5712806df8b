"""What an engine has made goes on at once where somebody waits for it, else in steps; nothing is lost, split or mixed up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tuneloop.engines.config import EngineConfig
from tuneloop.engines.pacing import Paced, together
from tuneloop.types import TokenEvent


def token(name: str, number: int, *, end: bool = False) -> TokenEvent:
    return TokenEvent(name, (number,), (-0.5 * number,), "length" if end else None)


def test_the_first_token_and_the_end_pass_at_once_and_the_rest_waits_for_its_time() -> None:
    paced = Paced(0.05)
    assert paced.take([token("a", 1)], 10.00) == [token("a", 1)]
    assert paced.take([token("a", 2)], 10.01) == []
    assert paced.take([], 10.04) == []
    assert paced.take([], 10.05) == [token("a", 2)]
    assert paced.take([token("a", 3)], 10.06) == []
    ended = paced.take([token("a", 4, end=True)], 10.07)
    assert ended == [TokenEvent("a", (3, 4), (-1.5, -2.0), "length")]


def test_a_newcomers_first_token_takes_along_what_waits() -> None:
    paced = Paced(0.05)
    paced.take([token("a", 1)], 10.00)
    paced.take([token("a", 2)], 10.01)
    assert paced.take([token("b", 1), token("a", 3)], 10.02) == [
        TokenEvent("a", (2, 3), (-1.0, -1.5)),
        token("b", 1),
    ]


def test_an_id_that_comes_again_begins_again() -> None:
    paced = Paced(9.0)
    paced.take([token("a", 1, end=True)], 10.0)
    assert paced.take([token("a", 7)], 10.1) == [token("a", 7)]


def test_zero_hands_on_every_token() -> None:
    paced = Paced(0.0)
    assert [len(paced.take([token("a", i)], 10.0)) for i in range(5)] == [1] * 5


def test_events_with_and_without_logprobs_stay_apart() -> None:
    events = [TokenEvent("a", (1,), (-0.5,)), TokenEvent("a", (2,)), TokenEvent("a", finish="stop")]
    assert together(events) == events
    assert together(events[:1] + events[2:]) == [TokenEvent("a", (1,), (-0.5,), "stop")]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(0, 0.04)), max_size=60),
    st.sampled_from([0.0, 0.05, 1.0]),
)
def test_every_token_comes_out_once_in_order_and_no_later_than_the_interval(
    steps: list[tuple[str, bool, float]], interval_s: float
) -> None:
    paced, now = Paced(interval_s), 100.0
    made: dict[str, list[tuple[int, float]]] = {}
    out: dict[str, list[int]] = {}
    ended: set[str] = set()
    for number, (name, end, wait) in enumerate(steps):
        now += wait
        events = [] if name in ended else [token(name, number, end=end)]
        if events:
            made.setdefault(name, []).append((number, now))
            ended |= {name} if end else set()
        for event in paced.take(events, now):
            out.setdefault(event.request_id, []).extend(event.token_ids)
            assert len(event.token_ids) == len(event.logprobs)
            assert (event.finish is not None) == (
                event.request_id in ended and event.token_ids[-1] == made[event.request_id][-1][0]
            )
        for known, tokens in made.items():
            late = [n for n, at in tokens if now - at >= interval_s and n not in out.get(known, [])]
            assert not late, "a token has waited longer than the interval"
    for event in paced.take([], now + interval_s):
        out.setdefault(event.request_id, []).extend(event.token_ids)
    assert out == {name: [n for n, _ in tokens] for name, tokens in made.items()}


def test_who_computes_elsewhere_is_not_held_back() -> None:
    assert EngineConfig().pace_s("llamacpp") == 0.05
    assert EngineConfig().pace_s("upstream") == 0.0
    assert EngineConfig(stream_interval_s=0.2).pace_s("upstream") == 0.2
