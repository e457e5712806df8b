"""Prompts that resemble each other: together where they are free, dropped where a prescribed source has them."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tuneloop.data import DataConfig
from tuneloop.data.frame import comparable, make_frame
from tuneloop.data.split import divide, similar

SHARED = Path(__file__).parents[5] / "shared" / "data"
BASE = "I have been waiting for my new debit card for two weeks and it has still not arrived"


def shingles(text: str) -> frozenset[str]:
    return frozenset(text[i : i + 5] for i in range(max(1, len(text) - 4)))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b)


def frame_of(prompts: list[str], pinned: list[str | None] | None = None, **more: list[Any]) -> pl.DataFrame:
    n = len(prompts)
    return make_frame(
        {
            "id": [f"r{i}" for i in range(n)],
            "messages": [[{"role": "user", "content": p}, {"role": "assistant", "content": f"{i}"}] for i, p in enumerate(prompts)],
            "source": [0] * n,
            "pinned": pinned or [None] * n,
            **more,
        }
    )  # fmt: skip


def unlike(n: int) -> list[str]:
    """Prompts that share no more than chance has it."""
    letters = random.Random(1)
    return ["".join(letters.choices("abcdefghijklmnopqrstuvwxyz ", k=60)) for _ in range(n)]


def test_similar_free_prompts_go_into_one_split() -> None:
    twins = [f"{text} {ending}" for text in unlike(60) for ending in ("now", "then")]
    splits = divide(frame_of(twins), DataConfig(sources="a")).verdicts["split"].to_list()
    assert all(splits[i] == splits[i + 1] for i in range(0, 120, 2))
    assert set(splits) == {"train", "validation", "test"}


def test_switched_off_similar_prompts_are_dealt_apart() -> None:
    twins = [f"{text} {ending}" for text in unlike(60) for ending in ("now", "then")]
    splits = divide(frame_of(twins), DataConfig(sources="a", near_leaks=None)).verdicts["split"].to_list()
    assert any(splits[i] != splits[i + 1] for i in range(0, 120, 2))


def test_a_free_prompt_like_a_prescribed_one_is_dropped_with_the_similarity() -> None:
    prompts = [BASE, f"{BASE} yet", *unlike(20)]
    frame = frame_of(prompts, ["test", *[None] * 21])
    verdicts = divide(frame, DataConfig(sources=({"path": "a"}, {"path": "b", "split": "test"}))).verdicts
    similarity = jaccard(shingles(BASE.lower()), shingles(f"{BASE} yet".lower()))
    assert verdicts["reason"][1] == f"leak: {similarity:.2f} similar to r0 of the test source"
    assert verdicts["partner"][1] == "r0"
    assert verdicts["reason"].drop_nulls().len() == 1


def test_a_prescribed_training_row_like_a_test_row_is_dropped_too_and_a_validation_row_yields_to_test() -> None:
    frame = frame_of([BASE, f"{BASE} yet", f"{BASE} now", "something else"], ["test", "train", "validation", "train"])
    splits = divide(frame, DataConfig(sources="a")).verdicts["split"].to_list()
    assert splits == ["test", None, None, "train"]


def test_the_most_similar_prescribed_row_is_named() -> None:
    frame = frame_of([f"{BASE} of late, yes", f"{BASE}, no", BASE, "other"], ["test", "test", None, None])
    assert divide(frame, DataConfig(sources="a")).verdicts["partner"][2] == "r1"


def test_all_rows_with_the_similar_prompt_are_dropped() -> None:
    frame = frame_of([BASE, f"{BASE} yet", f"{BASE} yet", "other"], ["test", None, None, None])
    verdicts = divide(frame, DataConfig(sources="a")).verdicts
    assert verdicts["reason"].is_not_null().to_list() == [False, True, True, False]


def test_a_template_stays_together_and_is_named() -> None:
    frame = frame_of([f"{BASE}, order {i}" for i in range(30)] + unlike(30))
    decided = divide(frame, DataConfig(sources="a"))
    assert decided.verdicts["split"][:30].n_unique() == 1
    assert decided.notes[0].startswith("30 of 60 rows hang together by prompts that resemble each other")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
def test_no_training_prompt_of_banking77_resembles_a_test_prompt() -> None:
    prompts, pinned = list[str](), list[str | None]()
    for name, split in (("test", "test"), ("train", None)):
        with (SHARED / "intent_en" / f"banking77_{name}.csv").open(encoding="utf-8") as file:
            texts = [row["text"] for row in csv.DictReader(file)]
        prompts += texts
        pinned += [split] * len(texts)
    frame = frame_of(prompts, pinned)
    config = DataConfig(sources=({"path": "train"}, {"path": "test", "split": "test"}))
    verdicts = divide(frame, config).verdicts
    reasons = verdicts["reason"].drop_nulls()
    assert reasons.str.starts_with("leak: same prompt as ").sum() >= 6  # its README counts six equal texts
    assert reasons.str.contains(r"^leak: 0\.[89]\d similar to ").sum() >= 50
    assert set(verdicts["split"][: pinned.index(None)]) == {"test"}

    # the plain way: every pair of 60 test prompts and all that is left to train on
    folded = comparable(frame["messages"].list.first().struct.field("content"))
    tested = random.Random(0).sample([shingles(t) for t in folded[: pinned.index(None)]], 60)
    trained = [shingles(t) for t in folded.filter(verdicts["split"] == "train")]
    assert max(jaccard(a, b) for a in tested for b in trained) < 0.8


def test_similar_pairs_are_those_of_a_plain_search() -> None:
    random_ = random.Random(5)
    words = [f"word{k}" for k in range(30)]
    texts = [" ".join(random_.choices(words, k=8)) for _ in range(60)]
    texts += [text.replace("word1", "ward1", 1) for text in texts]
    sets = [shingles(text) for text in texts]
    expected = {
        (i, j): jaccard(sets[i], sets[j])
        for j in range(len(texts))
        for i in range(j)
        if jaccard(sets[i], sets[j]) >= 0.7
    }
    digests = pl.DataFrame({"at": range(120), **similar.columns(pl.Series(texts))}).lazy()
    i, j, similarity = similar.pairs(digests, np.arange(120), 0.7)
    assert dict(zip(zip(i.tolist(), j.tolist(), strict=True), similarity.tolist(), strict=True)) == pytest.approx(
        expected
    )
    assert expected


def test_only_the_rows_asked_for_are_paired_and_counted_among_themselves() -> None:
    texts = [BASE, "something else", f"{BASE} yet", BASE]
    digests = pl.DataFrame({"at": range(4), **similar.columns(pl.Series(texts))}).lazy()
    i, j, _ = similar.pairs(digests, np.array([1, 2, 3]), 0.8)
    assert (i.tolist(), j.tolist()) == ([1], [2])
