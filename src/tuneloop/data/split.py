"""Kept rows -> train, validation, test: stratified, seeded, without leaks.

The order in which rows of a class are dealt out is a hash of seed and prompt, not of their position: adding rows to a
file moves only the few rows at the borders. Rows that share a prompt, or that resemble each other and differ in class,
move together.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from tuneloop.data.config import DataConfig
from tuneloop.data.frame import alive, comparable, drop, spoken
from tuneloop.data.groups import Groups
from tuneloop.data.steps.exact import FREE, rank
from tuneloop.types import Split

STEP, SAMPLE = "split", "sample"
_DEALT: tuple[Split, ...] = ("test", "validation", "train")
"""Dealt in this order from the front of the hash order, so that the test set changes least when rows are added."""


def prompt_keys(frame: pl.DataFrame) -> pl.Series:
    """What must not stand on both sides of a split: the whole prompt, as duplicates are compared."""
    return comparable(spoken(frame, prompt_only=True))


def drop_leaks(frame: pl.DataFrame) -> pl.DataFrame:
    """Drop free rows whose prompt stands in a prescribed test or validation source, whatever their answer."""
    rows = frame.select("id", "pinned").with_columns(key=prompt_keys(frame), rank=rank(frame))
    owners = (
        rows.filter(pl.col("rank") < FREE)
        .sort("rank", maintain_order=True)
        .group_by("key", maintain_order=True)
        .agg(owner=pl.col("id").first(), split=pl.col("pinned").first(), best=pl.col("rank").first())
    )
    judged = rows.join(owners, on="key", how="left", maintain_order="left").with_columns(
        reason=pl.when(pl.col("rank") > pl.col("best")).then(
            pl.format("leak: same prompt as {} of the {} source", "owner", "split")
        )
    )
    return drop(frame, STEP, judged["reason"], judged["owner"])


def sample(frame: pl.DataFrame, config: DataConfig) -> tuple[pl.DataFrame, list[str]]:
    """Take the stratified sample that a source asks for; the other rows are dropped as not sampled."""
    warnings = []
    for index, source in enumerate(config.sources):
        if source.rows is None:
            continue
        mine = frame.filter(alive() & (pl.col("source") == index))
        if mine.height <= source.rows:
            if mine.height < source.rows:
                warnings.append(
                    f"{source.title} has {mine.height:,} clean rows, fewer than the {source.rows:,} asked for"
                )
            continue
        ranked = _hash_order(mine, config.seed)
        quota = apportion(Counter(ranked["stratum"].to_list()), source.rows)
        kept = ranked.with_columns(nth=pl.int_range(pl.len()).over("stratum")).filter(
            pl.col("nth") < pl.col("stratum").replace_strict(quota, return_dtype=pl.Int64)
        )
        out = (pl.col("source") == index) & ~pl.col("id").is_in(kept["id"].implode())
        frame = drop(frame, SAMPLE, pl.when(out).then(pl.lit(f"not sampled: {source.rows:,} of {mine.height:,} rows")))
    return frame, warnings


def _hash_order(frame: pl.DataFrame, seed: int) -> pl.DataFrame:
    """id, stratum (class, '' without one), key (prompt), sorted by a hash of seed and prompt."""
    keys = prompt_keys(frame)
    places = [hashlib.sha256(f"{seed}\x00{key}".encode()).hexdigest() for key in keys]
    return (
        frame.select("id", "pinned", "group", stratum=pl.col("label").fill_null(""))
        .with_columns(key=keys, place=pl.Series(places, dtype=pl.String))
        .sort("place", maintain_order=True)
    )


def apportion(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Divide ``total`` over strata in proportion to their sizes, by largest remainder (Hamilton); ties by name."""
    whole = sum(sizes.values())
    exact = {name: size * total / whole for name, size in sizes.items()}
    seats = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (seats[name] - exact[name], name))
    for name in by_remainder[: total - sum(seats.values())]:
        seats[name] += 1
    return seats


@dataclass(frozen=True, slots=True)
class _Unit:
    """Rows that move together."""

    rows: tuple[int, ...]
    stratum: str
    pinned: Split | None


def assign(frame: pl.DataFrame, config: DataConfig) -> pl.Series:
    """The split of every row of a frame of living rows, in its order."""
    ordered = _hash_order(frame, config.seed)
    units = _units(ordered)
    splits: list[Split] = ["train"] * ordered.height
    free: dict[str, list[_Unit]] = defaultdict(list)
    for unit in units:
        if unit.pinned is None:
            free[unit.stratum].append(unit)
    dealt = _deal(free, _free_ratios(frame, config))
    pinned = ordered["pinned"].to_list()
    for unit, split in [*dealt, *((u, u.pinned) for u in units if u.pinned is not None)]:
        for row in unit.rows:
            splits[row] = pinned[row] or split
    assigned = ordered.select("id", split=pl.Series(splits, dtype=pl.String))
    return frame.select("id").join(assigned, on="id", how="left", maintain_order="left")["split"]


def _units(ordered: pl.DataFrame) -> list[_Unit]:
    """Rows with the same prompt or the same group, joined; a unit with a pinned row follows it."""
    groups = Groups()
    for column in ("key", "group"):
        first: dict[str, int] = {}
        for row, value in enumerate(ordered[column].to_list()):
            if value is not None and first.setdefault(value, row) != row:
                groups.join(first[value], row)
    members: dict[int, list[int]] = defaultdict(list)
    for row in range(ordered.height):
        members[groups.root(row)].append(row)
    strata, pinned = ordered["stratum"].to_list(), ordered["pinned"].to_list()
    return [
        _Unit(tuple(rows), strata[rows[0]], next((pinned[r] for r in rows if pinned[r]), None))
        for rows in members.values()
    ]


def _free_ratios(frame: pl.DataFrame, config: DataConfig) -> dict[Split, float]:
    """The ratios over the splits that no source prescribes."""
    ratios: dict[Split, float] = {
        "test": config.test_ratio,
        "validation": config.validation_ratio,
        "train": config.train_ratio,
    }
    prescribed = {source.split for source in config.sources} & {"test", "validation"}
    kept = {split: 0.0 if split in prescribed else ratio for split, ratio in ratios.items()}
    return {split: ratio / sum(kept.values()) for split, ratio in kept.items()}


def _deal(strata: Mapping[str, Sequence[_Unit]], ratios: Mapping[Split, float]) -> list[tuple[_Unit, Split]]:
    """Deal each class out by quota.

    What rounding takes from a split in one class it gets back in a later one, so the totals fit within a row. A class
    with one row trains; a class always has a row in train.
    """
    owed = dict.fromkeys(_DEALT, 0.0)
    out: list[tuple[_Unit, Split]] = []
    for stratum in sorted(strata):
        units = strata[stratum]
        size = sum(len(unit.rows) for unit in units)
        wanted = {split: size * ratios[split] + owed[split] for split in _DEALT}
        quota = _round(wanted, size)
        got: Counter[Split] = Counter()
        for k, unit in enumerate(units):
            last = k == len(units) - 1
            split: Split = next((s for s in _DEALT if got[s] < quota[s]), "train")
            if last and not got["train"]:
                split = "train"
            got[split] += len(unit.rows)
            out.append((unit, split))
        owed = {split: wanted[split] - got[split] for split in _DEALT}
    return out


def _round(wanted: Mapping[Split, float], size: int) -> dict[Split, int]:
    """Whole numbers that add up to ``size``, nearest to what is wanted."""
    quota = {split: max(0, int(value)) for split, value in wanted.items()}
    by_need = sorted(_DEALT, key=lambda s: quota[s] - wanted[s])
    k = 0
    while sum(quota.values()) < size:
        quota[by_need[k % len(by_need)]] += 1
        k += 1
    while sum(quota.values()) > size:
        largest = max(_DEALT, key=lambda s: quota[s] - wanted[s] if quota[s] else float("-inf"))
        quota[largest] -= 1
    return quota


def shared_prompts(frame: pl.DataFrame, splits: pl.Series) -> int:
    """How many prompts stand in more than one split."""
    return int(
        pl.DataFrame({"key": prompt_keys(frame), "split": splits})
        .group_by("key")
        .agg(pl.col("split").n_unique())
        .filter(pl.col("split") > 1)
        .height
    )
