from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from tests.tiny import tiny_model
from tests.unit.train.runs import VOCABULARY, rows, settings
from tuneloop.train.finder import Sweep, ladder, plot, smooth, suggest, sweep
from tuneloop.train.methods import prepare
from tuneloop.train.objectives import create


def swept(**more: object) -> Sweep:
    config = settings(**more)
    torch.manual_seed(0)
    model = prepare(tiny_model("llama", vocab_size=VOCABULARY), config)
    return sweep(model, create(model, config), [[rows(8)]] * 40, config)


def test_rates_grow_by_one_factor_around_the_default() -> None:
    assert ladder(2e-4, 7) == pytest.approx([2e-7, 2e-6, 2e-5, 2e-4, 2e-3, 2e-2, 2e-1])


def test_smoothing_by_hand() -> None:
    # 0.5: averages 2, 1 + 2 = 3, 1.5 + 0.5 = 2 of losses 4, 4, 1; divided by 1 - 0.5^n: 0.5, 0.75, 0.875
    assert smooth([4.0, 4.0, 1.0], weight=0.5) == pytest.approx([4.0, 4.0, 2 / 0.875])


def test_the_suggestion_is_the_steepest_descent_before_the_minimum() -> None:
    rates = [10.0**e for e in range(-6, 2)]
    #        1e-6 1e-5 1e-4 1e-3 1e-2 1e-1  1   10
    losses = [4.0, 4.0, 3.9, 3.0, 1.5, 1.4, 2.0, 9.0]  # slopes over two decades: -.05 -.5 -1.2 -.8 ...
    assert suggest(rates, losses) == 1e-3


def test_a_loss_that_falls_again_after_the_minimum_is_not_followed() -> None:
    rates = [10.0**e for e in range(-4, 3)]
    assert suggest(rates, [3.0, 2.9, 2.5, 2.4, 9.0, 5.0, 4.0]) == 1e-3


def test_a_sweep_that_never_falls_suggests_nothing() -> None:
    assert suggest([1e-4, 1e-3, 1e-2, 1e-1], [2.0, 2.1, 2.5, 4.0]) is None
    assert suggest([], []) is None


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_real_sweep_ends_where_it_diverges_and_suggests_a_rate_that_learns(method: str) -> None:
    found = swept(method=method)
    assert found.suggestion is not None
    assert found.rates[0] < found.suggestion < found.rates[-1]
    place = found.rates.index(found.suggestion)
    assert found.smoothed[place] < found.smoothed[0]
    assert all(math.isfinite(x) for x in found.losses)


def test_the_same_seed_gives_the_same_sweep() -> None:
    assert swept(method="full") == swept(method="full")


def test_the_table_marks_the_suggestion() -> None:
    found = swept(method="full")
    lines = found.table()
    assert len(lines) <= 15
    (marked,) = [line for line in lines if "steepest descent" in line]
    assert marked.split()[0] == f"{found.suggestion:.2e}"


def test_the_picture_is_an_svg_with_both_curves_and_the_suggestion() -> None:
    tree = ElementTree.fromstring(plot(swept(method="full")))
    lines = tree.findall("{http://www.w3.org/2000/svg}polyline")
    assert [line.get("stroke") for line in lines] == ["#9ab", "#06c"]
    words = [t.text for t in tree.findall("{http://www.w3.org/2000/svg}text")]
    assert f"{swept(method='full').suggestion:.1e}" in words
