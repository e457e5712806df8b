"""Draws that depend on id and seed only."""

from __future__ import annotations

import polars as pl

from tuneloop.data.makers.rows import drawn, places
from tuneloop.types import record_id

IDS = pl.Series([record_id(str(k), "file") for k in range(20_000)])


def test_a_share_of_the_ids_is_drawn() -> None:
    # 15 % of 20,000 is 3,000; five standard deviations of a binomial draw are 252
    assert abs(int(drawn(IDS, 0, "typos", 0.15).sum()) - 3_000) < 252


def test_another_seed_and_another_purpose_draw_independently() -> None:
    first = drawn(IDS, 0, "typos", 0.5)
    for other in (drawn(IDS, 1, "typos", 0.5), drawn(IDS, 0, "synonyms", 0.5)):
        assert abs(int((first == other).sum()) - 10_000) < 354  # five standard deviations


def test_an_id_keeps_its_place_among_other_ids() -> None:
    assert places(IDS[100:200], 3, "x").tolist() == places(IDS, 3, "x")[100:200].tolist()


def test_ids_that_are_no_hexadecimal_numbers_have_places_of_their_own() -> None:
    assert len(set(places(pl.Series(["row 1", "row 2", "ff"]), 0, "x").tolist())) == 3
