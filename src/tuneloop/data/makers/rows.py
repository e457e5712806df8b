"""What every derived row has in common, and the draws that decide about it."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from tuneloop.data.frame import SCHEMA, make_frame
from tuneloop.data.makers import Around, MakerBase
from tuneloop.types import record_id

_INHERITED = ("source", "label", "desirable", "tools", "group")
_WHOLE = float(1 << 64)


def places(ids: pl.Series, seed: int, what: str) -> NDArray[np.uint64]:
    """A place for each id, uint64 [N], uniform: the same id, seed and purpose always give the same one.

    Ids are hash values already (``record_id``); splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
    generators", 2014) mixes the seed in.
    """
    numbers = ids.str.to_integer(base=16, dtype=pl.UInt64, strict=False)
    if numbers.null_count():
        hashed = [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) for text in ids]
        numbers = numbers.fill_null(pl.Series(hashed, dtype=pl.UInt64))
    salt = int.from_bytes(hashlib.sha256(f"{seed}\x00{what}".encode()).digest()[:8])
    mixed = numbers.to_numpy() ^ np.uint64(salt)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    out: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return out


def drawn(ids: pl.Series, seed: int, what: str, share: float) -> pl.Series:
    """Which ids belong to a random ``share`` of all."""
    return pl.Series(places(ids, seed, what) / _WHOLE < share, dtype=pl.Boolean)


def dice(row_id: str, seed: int, what: str) -> random.Random:
    """The random numbers of one row."""
    return random.Random(f"{seed}\x00{what}\x00{row_id}")


@dataclass(frozen=True, slots=True)
class Draft:
    """What is new in a derived row."""

    messages: Sequence[Mapping[str, str | None]]
    fields: str | None


def derive(parents: pl.DataFrame, drafts: Sequence[Draft], name: str, first: int) -> pl.DataFrame:
    """New rows, one for each row of ``parents``; they carry its source, class, verdict, tools and group.

    Args:
        drafts: One for each parent.
        name: What the maker's rows are called.
        first: Running number of the first one.
    """
    frame = make_frame(
        {
            "id": [""] * parents.height,
            "messages": [draft.messages for draft in drafts],
            "fields": [draft.fields for draft in drafts],
            "parents": [[parent] for parent in parents["id"]],
            **{column: parents[column].to_list() for column in _INHERITED},
        }
    )
    return christen(frame, name, first)


def christen(frame: pl.DataFrame, name: str, first: int) -> pl.DataFrame:
    """Give new rows their number, origin, raw text and id. They train, whatever the split of their source is."""
    numbers = pl.int_range(first, first + frame.height, dtype=pl.Int64, eager=True)
    named = frame.with_columns(
        line=numbers,
        origin=pl.lit(f"{name}:") + numbers.cast(pl.String),
        raw=pl.struct("messages", "label", "fields").struct.json_encode(),
        pinned=pl.lit("train"),
    )
    ids = [record_id(raw, origin) for raw, origin in named.select("raw", "origin").iter_rows()]
    return named.with_columns(id=pl.Series(ids, dtype=pl.String)).select(list(SCHEMA))


class RowMaker(MakerBase):
    """Makes at most one new row from each drawn training row, without looking at the others."""

    rate: float = Field(default=0.15, gt=0.0, le=1.0)
    """Share of the training rows from which a new row is made."""

    def remake(self, row: Mapping[str, Any], random: random.Random) -> Draft | None:
        """The new row, or None when nothing in this one can be changed.

        Args:
            row: A row of the frame; ``fields`` is a dictionary. It may be changed in place.
        """
        raise NotImplementedError

    def make(self, parts: Iterable[pl.DataFrame], around: Around) -> Iterator[pl.DataFrame]:
        made = unchanged = 0
        for part in parts:
            rows = part.filter(drawn(part["id"], around.seed, around.name, self.rate))
            drafts: list[Draft] = []
            kept: list[int] = []
            for at, row in enumerate(rows.iter_rows(named=True)):
                row["fields"] = json.loads(row["fields"]) if row["fields"] else {}
                draft = self.remake(row, dice(row["id"], around.seed, around.name))
                if draft is not None:
                    drafts.append(draft)
                    kept.append(at)
            unchanged += rows.height - len(kept)
            if kept:
                yield derive(rows[kept], drafts, around.name, made + 1)
            made += len(kept)
        around.report(made=made, nothing_to_change=unchanged)


def fields_text(fields: Mapping[str, Any]) -> str | None:
    """The ``fields`` column of a frame."""
    return json.dumps(fields, ensure_ascii=False) if fields else None
