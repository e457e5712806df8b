from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.engines.llamacpp_slots import Slots, common_prefix

COUNT = 6


def passes(busy: set[int]) -> int:
    """How many groups of neighbours there are."""
    return sum(slot - 1 not in busy for slot in busy)


@given(st.lists(st.integers(-1, COUNT - 1), max_size=60))
def test_no_slot_would_need_fewer_passes(turns: list[int]) -> None:
    """A turn of -1 takes a slot, any other gives that one back if it is busy."""
    slots, busy = Slots(COUNT, remember=False), set[int]()
    for turn in turns:
        if turn in busy:
            busy.remove(turn)
            slots.give_back(turn, (1, 2, 3))
        elif turn == -1 and slots:
            fewest = min(passes(busy | {slot}) for slot in set(range(COUNT)) - busy)
            slot, known = slots.take((1, 2, 3))
            assert slot not in busy
            assert known == 0
            busy.add(slot)
            assert passes(busy) == fewest
        assert bool(slots) == (len(busy) < COUNT)


def test_what_a_slot_knows_counts_where_it_costs_no_pass() -> None:
    slots = Slots(COUNT, remember=True)
    assert slots.take((1, 2, 3)) == (0, 0)
    slots.give_back(0, (1, 2, 3, 4))
    assert slots.take((1, 2, 3, 9)) == (0, 3)
    slots.give_back(0, (1, 2, 3, 9))
    assert slots.take((1, 2, 3)) == (0, 2), "one token is computed again, for its logits"
    assert slots.take((1, 2, 3)) == (1, 0)


@pytest.mark.parametrize(("known", "slot"), [(100, 1), (1000, 5)])
def test_a_prefix_has_to_be_worth_a_gap(known: int, slot: int) -> None:
    slots, long = Slots(COUNT, remember=True), tuple(range(known))
    held = [slots.take((-1, -2))[0] for _ in range(COUNT)]
    assert held == list(range(COUNT))
    for idle in held[1:]:
        slots.give_back(idle, long if idle == 5 else (-1,))
    assert slots.take((*long, -2)) == (slot, known if slot == 5 else 0)


def test_without_any_reason_the_one_that_rests_longest_is_taken() -> None:
    slots = Slots(3, remember=True)
    assert [slots.take((n, n))[0] for n in range(3)] == [0, 1, 2]
    for slot in (2, 0, 1):
        slots.give_back(slot, (slot, slot))
    assert slots.take((8, 8))[0] == 2


@pytest.mark.parametrize(
    ("a", "b", "common"), [((), (1,), 0), ((1, 2, 3), (1, 2, 3), 3), ((1, 2, 3), (1, 2, 4, 5), 2), ((2,), (1,), 0)]
)
def test_common_prefix(a: tuple[int, ...], b: tuple[int, ...], common: int) -> None:
    assert common_prefix(a, b) == common
