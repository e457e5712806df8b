"""What the split needs to know of each row, in a few dozen bytes."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import polars as pl

from tuneloop.data.config import DataConfig
from tuneloop.data.frame import comparable, spoken
from tuneloop.data.split import similar

STEP, SAMPLE = "split", "sample"
"""Under these names leaks and rows that a sample leaves out stand in the ledger."""
PINS = {"test": 0, "validation": 1, "train": 2}
FREE = 3
"""Codes of the split that a source prescribes; a free row has none."""
LABEL = "label"
"""The name of the class among ``stratify_columns``."""
NOBODY = 0
"""Hash of a row that belongs to no group."""


def prompt_keys(frame: pl.DataFrame) -> pl.Series:
    """What must not stand on both sides of a split: the whole prompt, as duplicates are compared."""
    return comparable(spoken(frame, prompt_only=True))


def field(frame: pl.DataFrame, name: str) -> pl.Series:
    """A kept column as text; null where the row has no such value, or an empty one."""
    if set(name) & set('"\\'):  # a JSON path has no way to write these
        objects = (json.loads(text or "{}") for text in frame["fields"])
        found = pl.Series([None if (v := o.get(name)) is None else str(v) for o in objects], dtype=pl.String)
    else:
        found = frame["fields"].str.json_path_match(f'$["{name}"]')
    found = found.str.strip_chars().rename(name)
    return found.to_frame().select(pl.when(pl.first() != "").then(pl.first())).to_series()


def strata(config: DataConfig) -> list[str]:
    """The fields by which the split is stratified; ``label`` is the class whatever its column is called."""
    names = (LABEL if name == config.label_column else name for name in config.stratify_columns)
    return list(dict.fromkeys(names))


def digest(frame: pl.DataFrame, config: DataConfig) -> pl.DataFrame:
    """One row for each row of the frame, in its order.

    Returns:
        id; source; pinned (``PINS`` or ``FREE``); key_high, key_low: 128 bits of the seeded BLAKE2b hash of the prompt;
        group, column_group: 64 bits of the hash of the frame's group and of ``group_column`` (``NOBODY`` without one);
        label; ``stratum k``: value of the k-th field of ``strata`` ('' without one); what ``similar`` needs, where
        ``near_leaks`` asks for it. Hashes of 128 bits: two different prompts among 5 million share one with a chance of 4e-26; of 64 bits:
        7e-7, and then two groups merely move together.
    """
    prompts = prompt_keys(frame)
    keys = _hashes(prompts, config.seed)
    columns = {
        "id": frame["id"],
        "source": frame["source"].fill_null(-1),
        "pinned": frame["pinned"].replace_strict(PINS, default=FREE, return_dtype=pl.Int8).fill_null(FREE),
        "key_high": pl.Series(keys[:, 0], dtype=pl.UInt64),
        "key_low": pl.Series(keys[:, 1], dtype=pl.UInt64),
        "group": _group(frame["group"], config.seed),
        "column_group": _group(_grouping(frame, config), config.seed),
        "label": frame["label"],
    }
    for k, name in enumerate(strata(config)):
        values = frame["label"] if name == LABEL else field(frame, name)
        columns[f"stratum {k}"] = values.fill_null("")
    if config.near_leaks is not None:
        columns |= similar.columns(prompts)
    return pl.DataFrame(columns)


def _grouping(frame: pl.DataFrame, config: DataConfig) -> pl.Series:
    if config.group_column is None:
        return pl.Series([None], dtype=pl.String).new_from_index(0, frame.height)
    return field(frame, config.group_column)


def _group(names: pl.Series, seed: int) -> pl.Series:
    """64-bit hashes, ``NOBODY`` for null."""
    out = np.full(names.len(), NOBODY, dtype=np.uint64)
    out[names.is_not_null().to_numpy()] = _hashes(names.drop_nulls(), seed)[:, 0]
    return pl.Series(out, dtype=pl.UInt64)


def _hashes(texts: pl.Series, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
    """BLAKE2b of seed and text, uint64 [N, 2]: the same on every machine and in every version, which polars' is not."""
    start = hashlib.blake2b(f"{seed}\0".encode(), digest_size=16)
    out = bytearray()
    for blob in texts.cast(pl.Binary).to_list():
        state = start.copy()
        state.update(blob)
        out += state.digest()
    return np.frombuffer(bytes(out), dtype="<u8").astype(np.uint64).reshape(-1, 2)
