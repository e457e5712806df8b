from __future__ import annotations

from collections import Counter

from tuneloop.train.plan import draw

LENGTHS = [5, 50, 7, 9, 40, 11, 3, 60, 8, 21]


def plan(**kind: object) -> object:
    return draw(
        LENGTHS, **({"batch_size": 2, "accumulation_steps": 2, "epochs": 2, "max_steps": None, "seed": 1} | kind)
    )  # type: ignore[arg-type]


def test_every_row_stands_once_in_every_epoch() -> None:
    drawn = plan()
    assert drawn.epoch_ends == (3, 6)
    for first, last in ((0, 3), (3, 6)):
        seen = Counter(r for step in drawn.steps[first:last] for micro in step for r in micro)
        assert seen == Counter(range(10))


def test_the_same_seed_draws_the_same_plan_and_another_seed_another() -> None:
    assert plan().hash == plan().hash
    assert plan().hash != plan(seed=2).hash


def test_micro_batches_of_a_step_hold_similar_token_counts() -> None:
    drawn = draw([100, 1, 100, 1], batch_size=2, accumulation_steps=2, epochs=1, max_steps=None, seed=0)
    assert [sum([100, 1, 100, 1][r] for r in micro) for micro in drawn.steps[0]] == [101, 101]


def test_max_steps_and_fractional_epochs_cut_the_plan() -> None:
    assert len(plan(max_steps=2).steps) == 2
    assert len(plan(epochs=0.5).steps) == 2
    assert plan(epochs=0.5).epoch_ends == (2,)


def test_packed_steps_are_full_of_whole_rows() -> None:
    rows = [10, 3, 90, 7, 60, 35, 5, 40, 20, 80] * 3
    drawn = draw(rows, batch_size=2, accumulation_steps=2, pack_tokens=100, epochs=1, seed=3)
    assert Counter(r for step in drawn.steps for micro in step for r in micro) == Counter(range(30))
    held = [sum(rows[r] for micro in step for r in micro) for step in drawn.steps]
    assert max(held) <= 400
    assert min(held[:-1]) > 400 - 90, "a step ends only where the next row does not fit"
    assert max(sum(rows[r] for r in micro) for step in drawn.steps for micro in step) <= 200


def test_packed_rows_are_not_counted_against_the_batch_size() -> None:
    assert len(draw([10] * 20, batch_size=1, pack_tokens=100, epochs=1).steps[0][0]) == 10
