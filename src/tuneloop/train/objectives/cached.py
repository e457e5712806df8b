"""A teacher's k best tokens at every label position, computed once and kept on the disk.

    teacher/
      manifest.json       what it is of (key), how many positions are done, whether it is whole, hashes
      tokens.i32          positions x k
      log_probs.f32       positions x (k + 1): softened, the last is the mass of all other tokens

Positions stand in the order of the examples. The files are memory-mapped: a step reads its own rows. A killed run goes
on after the last group that the manifest counts; groups are cut the same way again, so the numbers are the same too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tuneloop.config import hash_json
from tuneloop.errors import ModelError
from tuneloop.progress import Progress, log
from tuneloop.rundir import disk_error_in, sha256_file, write_atomic
from tuneloop.train.batch import Batch, collate
from tuneloop.train.objectives.divergence import best
from tuneloop.train.objectives.teacher import LiveTeacher, read_through
from tuneloop.types import Example

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]
    Mapped = np.memmap[Any, Any]

FOLDER, MANIFEST, TOKENS, LOG_PROBS = "teacher", "manifest.json", "tokens.i32", "log_probs.f32"
GROUP_TOKENS = 4096
"""Tokens of the rows that the teacher reads at once."""
CHUNK = 512
"""Positions whose logits are alive at once."""
SAVE_EVERY_GROUPS = 16
"""A killed run does at most this many groups again."""


class CachedTeacher:
    """Reads what ``write`` kept.

    Args:
        folder: The whole cache.
        examples: Those it was written for, in that order.
        k: How many tokens of each position.
        width: Tokens of the shared vocabulary.
        temperature: Of the softening.
    """

    def __init__(self, folder: Path, examples: Sequence[Example], *, k: int, width: int, temperature: float) -> None:
        self.width, self.temperature = width, temperature
        self.tokens, self.log_probs = _mapped(folder, sum(e.label_tokens for e in examples), k, "r")
        self.at: dict[tuple[str, tuple[int, ...]], int] = {}
        position = 0
        for example in examples:
            self.at[example.id, example.input_ids] = position
            position += example.label_tokens

    def known(self, examples: Sequence[Example], batch: Batch | None) -> tuple[Tensor, ...]:
        """Best tokens (int64, N x k) and log-probabilities (float32, N x (k + 1)).

        Raises:
            ModelError: A row that the teacher has never seen.
        """
        rows = [row for example in examples for row in self._rows(example)]
        tokens = torch.from_numpy(np.asarray(self.tokens[rows], dtype=np.int64))
        log_probs = torch.from_numpy(np.asarray(self.log_probs[rows], dtype=np.float32))
        device = torch.device("cpu") if batch is None else batch.target_N.device
        return tokens.to(device), log_probs.to(device)

    def _rows(self, example: Example) -> range:
        first = self.at.get((example.id, example.input_ids))
        if first is None:
            raise ModelError(f"the teacher's cache does not know row {example.id}", where="train.distil.top_k")
        return range(first, first + example.label_tokens)

    def pair(self, logits_NV: Tensor, known: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        there = [x.to(logits_NV.device) for x in known]
        return read_through(logits_NV, there, self.temperature, self.width)


def key_of(teacher: str, dtype: str, examples: Sequence[Example], *, k: int, width: int, temperature: float) -> str:
    """What a cache depends on: the teacher's fingerprint and precision, every row, and how it is cut and softened."""
    rows = hashlib.sha256()
    for e in examples:
        mask = "".join("01"[m] for m in e.loss_mask)
        rows.update(json.dumps([e.id, e.input_ids, mask]).encode())
    return hash_json([teacher, dtype, rows.hexdigest(), k, width, temperature])


def is_whole(folder: Path, key: str) -> bool:
    """Whether the cache of this key is there, complete and undamaged."""
    manifest = _manifest(folder)
    if manifest.get("key") != key or not manifest.get("complete"):
        return False
    hashes: dict[str, str] = manifest["sha256"]
    damaged = [n for n, seen in hashes.items() if not (folder / n).is_file() or sha256_file(folder / n) != seen]
    if damaged:
        log(f"warning: the teacher's cache is damaged ({', '.join(damaged)}) and is written again: {folder}")
        (folder / MANIFEST).unlink()
    return not damaged


def write(folder: Path, key: str, teacher: Callable[[], LiveTeacher], examples: Sequence[Example], k: int) -> None:
    """Compute the cache, or what is missing of it.

    Args:
        folder: Where it goes.
        key: See ``key_of``.
        teacher: Loads the teacher (flat); called only when something is missing.
        examples: All rows that will ever be asked for.
        k: Tokens of a position; smaller than the vocabulary.

    Raises:
        ResourceError: The disk is full. What is done stays.
    """
    if is_whole(folder, key):
        return
    manifest = _manifest(folder)
    positions = sum(e.label_tokens for e in examples)
    continues = manifest.get("key") == key and not manifest.get("complete") and _sizes_fit(folder, positions, k)
    done = int(manifest["done"]) if continues else 0
    try:
        if not continues:
            _begin(folder, key, positions, k)
        if done:
            log(f"  the teacher's cache goes on after {done:,} of {positions:,} positions")
        _fill(folder, key, teacher(), examples, k, done)
    except OSError as error:
        if explained := disk_error_in(error, folder):
            raise explained from error
        raise


def _begin(folder: Path, key: str, positions: int, k: int) -> None:
    (folder / MANIFEST).unlink(missing_ok=True)  # first: files of another key must never look like these
    folder.mkdir(parents=True, exist_ok=True)
    _mapped(folder, positions, k, "w+")
    write_atomic(folder / MANIFEST, json.dumps({"key": key, "done": 0, "complete": False}))
    log(f"  keeping the teacher's {k} best tokens of {positions:,} positions ({positions * (8 * k + 4) / 1e6:,.1f} MB)")


def _fill(folder: Path, key: str, teacher: LiveTeacher, examples: Sequence[Example], k: int, done: int) -> None:
    positions = sum(e.label_tokens for e in examples)
    tokens, log_probs = _mapped(folder, positions, k, "r+")
    at = 0

    def save(**more: Any) -> None:
        tokens.flush()
        log_probs.flush()
        write_atomic(folder / MANIFEST, json.dumps({"key": key, "done": at, "complete": False} | more))

    with Progress("reading the teacher", positions, "positions") as bar:
        bar.resume_at(done)
        for number, group in enumerate(_groups(examples), 1):
            size = sum(e.label_tokens for e in group)
            at += size
            if at <= done:
                continue
            tokens[at - size : at], log_probs[at - size : at] = _look(teacher, group, k)
            bar.update(size)
            if number % SAVE_EVERY_GROUPS == 0:
                save()
    save()
    save(complete=True, sha256={n: sha256_file(folder / n) for n in (TOKENS, LOG_PROBS)})


@torch.no_grad()
def _look(teacher: LiveTeacher, group: Sequence[Example], k: int) -> tuple[Array, Array]:
    (hidden_ND,) = teacher.known(group, collate(group))
    found = [best(teacher.log_probs([part]), k) for part in torch.split(hidden_ND, CHUNK)]
    tokens, log_probs = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
    return tokens.numpy().astype(np.int32), log_probs.numpy()


def _groups(examples: Sequence[Example]) -> Iterator[list[Example]]:
    group: list[Example] = []
    held = 0
    for example in examples:
        group.append(example)
        held += len(example.input_ids)
        if held >= GROUP_TOKENS:
            yield group
            group, held = [], 0
    if group:
        yield group


def _mapped(folder: Path, positions: int, k: int, mode: Any) -> tuple[Mapped, Mapped]:
    return (
        np.memmap(folder / TOKENS, np.int32, mode, shape=(positions, k)),
        np.memmap(folder / LOG_PROBS, np.float32, mode, shape=(positions, k + 1)),
    )


def _sizes_fit(folder: Path, positions: int, k: int) -> bool:
    wanted = {TOKENS: 4 * positions * k, LOG_PROBS: 4 * positions * (k + 1)}
    return all((folder / n).is_file() and (folder / n).stat().st_size == size for n, size in wanted.items())


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
