"""Rows that say the same, and rows that say the same and disagree."""

from __future__ import annotations

from hashlib import blake2b
from typing import ClassVar

import numpy as np
import polars as pl

from tuneloop.data.frame import REJECTED, comparable, is_classification, spoken, turns
from tuneloop.data.steps import WholeBase
from tuneloop.data.steps.digests import pick

PINNED = {"test": 0, "validation": 1}
_NONE = pl.Series([""])
FREE = 2
"""Ranks: a row of a prescribed test set is never dropped for the sake of another row, a free row is."""


def rank(frame: pl.DataFrame) -> pl.Series:
    """0 for rows that a source prescribes to test, 1 to validation, 2 for the others."""
    return frame["pinned"].replace_strict(PINNED, default=FREE, return_dtype=pl.Int32).fill_null(FREE)


def compared_text(frame: pl.DataFrame) -> pl.Series:
    """What duplicates are judged by: the whole conversation; where the class is the answer, that is the prompt alone."""
    return comparable(spoken(frame, prompt_only=False) + _beside(frame))


def _beside(frame: pl.DataFrame) -> pl.Series:
    """What tells rows with the same words apart: the rejected answer, the calls, the verdict, the media."""
    flat = turns(frame)
    words = pl.concat_str(
        pl.when(pl.col("role") == REJECTED).then("content"), "tool_calls", "media", separator="\n", ignore_nulls=True
    )
    said = (
        flat.select("row", said=words)
        .filter(pl.col("said") != "")
        .group_by("row", maintain_order=True)
        .agg(pl.col("said").str.join("\n"))
    )
    rows = frame.select("desirable", row=pl.int_range(pl.len(), dtype=pl.Int64))
    joined = rows.join(said, on="row", how="left", maintain_order="left")
    verdict = pl.col("desirable").cast(pl.String)
    return joined.select(pl.concat_str(pl.lit(""), "said", verdict, separator="\n", ignore_nulls=True)).to_series()


def text_hash(texts: pl.Series, classified: pl.Series) -> list[pl.Series]:
    """128 bits in two columns (UInt64): BLAKE2b of the text and of whether its class is the answer.

    Two different texts among n get the same hash with a probability below n² / 2^129: 4e-26 for 5 million rows.
    """
    digests = [
        blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, salt=b"class" if own else b"").digest()
        for text, own in zip(texts, classified, strict=True)
    ]
    halves = np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 2)
    return [pl.Series("hash_high", halves[:, 0], dtype=pl.UInt64), pl.Series("hash_low", halves[:, 1], dtype=pl.UInt64)]


class ExactDuplicates(WholeBase):
    """Keeps the first of the rows with the same text (letter case, spaces and closing marks apart).

    Rows with the same text and different classes contradict each other: the class of the majority is kept; without a
    majority nobody knows which is right, and all of them are dropped. A row that also stands in a prescribed test or
    validation source is a leak and is dropped; the rows of such a source are left as they are. Texts are compared by 128
    bits of a hash.
    """

    name: ClassVar[str] = "exact_duplicates"

    def digest(self, frame: pl.DataFrame) -> pl.DataFrame:
        classified = is_classification(frame)
        return frame.select("id", "pinned", rank=rank(frame)).with_columns(
            *text_hash(compared_text(frame), classified), frame["label"].zip_with(classified, _NONE).alias("class")
        )

    def decide(self, digests: pl.LazyFrame) -> pl.DataFrame:
        # half of the hash finds the few rows that can have a twin; only those are looked at whole
        half = digests.select("hash_high").collect()["hash_high"]
        twins = half.is_duplicated().arg_true().cast(pl.Int64).to_numpy()
        rows = pick(digests, twins).sort("rank", "at")
        key = ("hash_high", "hash_low")
        judged = (
            rows.with_columns(
                best=pl.col("rank").min().over(key),
                first=pl.col("id").first().over(key),
                owner=pl.col("pinned").first().over(key),
                votes=pl.len().over(*key, "class"),
            )
            .with_columns(wins=pl.col("votes") == pl.col("votes").max().over(key))
            .with_columns(majority=pl.col("class").filter("wins").n_unique().over(key) == 1)
            .with_columns(keeper=pl.col("id").filter(pl.col("wins")).first().over(key))
            .with_columns(
                keeper_class=pl.col("class").filter(pl.col("wins")).first().over(key),
                rival=pl.col("id").filter(pl.col("class") != pl.col("class").first()).first().over(key),
                first_class=pl.col("class").first().over(key),
            )
            .with_columns(
                partner=pl.when(pl.col("best") < FREE)
                .then("first")
                .when("majority")
                .then("keeper")
                .when(pl.col("class") == pl.col("first_class"))
                .then("rival")
                .otherwise("first")
            )
            .with_columns(reason=_reason())
            .sort("at")
        )
        hit = judged.filter(pl.col("reason").is_not_null())
        return hit.select("at", "reason", "partner", group=pl.lit(None, dtype=pl.String))


def _reason() -> pl.Expr:
    leak = pl.format("leak: same text as {} of the {} source", "partner", "owner")
    unclear = pl.format("contradicts: same text as {} with another class, and no majority", "partner")
    outvoted = pl.format("contradicts: same text as {}, whose class has the majority", "partner")
    same = pl.format("duplicate: same text as {}", "partner")
    return (
        pl.when(pl.col("best") < FREE)
        .then(pl.when(pl.col("rank") > pl.col("best")).then(leak))
        .when(~pl.col("majority"))
        .then(unclear)
        .when(pl.col("class") != pl.col("keeper_class"))
        .then(outvoted)
        .when(pl.col("id") != pl.col("keeper"))
        .then(same)
    )
