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
