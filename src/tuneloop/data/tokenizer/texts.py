"""The texts a tokenizer is trained on and measured with, one after the other: nothing holds all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from tuneloop.data import formats, sources
from tuneloop.data.artifact import SUMMARY
from tuneloop.data.config import DataConfig
from tuneloop.data.tokenizer.config import TokenizerConfig
from tuneloop.errors import DataError
from tuneloop.rundir import sha256_file
from tuneloop.types import Record, Split

HELD_OUT_EVERY = 20
"""Of raw files, every twentieth text is measured instead of learned; a data stage has its validation split for that."""

_Stream = Callable[[], Iterator[str]]


class Texts:
    """The texts of all sources.

    Raises:
        DataError: A source is missing, unreadable, or no source is named.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        if not config.sources:
            raise DataError("no text is named", where="tokenizer.sources", hint="tuneloop tokenizer --from FOLDER")
        self.stages = [path for path in config.sources if _is_stage(path)]
        raw = tuple(path for path in config.sources if not _is_stage(path))
        self._raw = DataConfig(sources=raw, steps=()) if raw else None
        self.unreadable = 0
        """Rows of raw files that could not be read, in the last pass."""

    def input_hashes(self) -> dict[str, str]:
        """Name of each file -> SHA-256."""
        files = [folder / f"{split}.jsonl" for folder in self.stages for split in ("train", "validation")]
        found = {f"{file.parent.name}/{file.name}": sha256_file(file) for file in files if file.is_file()}
        return found | (sources.input_hashes(self._raw) if self._raw else {})

    def training(self) -> Iterator[str]:
        """What is learned."""
        for folder in self.stages:
            yield from _of_stage(folder, "train")
        yield from self._of_files(lambda nth: nth % HELD_OUT_EVERY != HELD_OUT_EVERY - 1)

    def held_out(self) -> Iterator[str]:
        """What is measured."""
        for folder in self.stages:
            yield from _of_stage(folder, "validation")
        yield from self._of_files(lambda nth: nth % HELD_OUT_EVERY == HELD_OUT_EVERY - 1)

    def _of_files(self, wanted: Callable[[int], bool]) -> Iterator[str]:
        self.unreadable = 0
        for file in sources.files(self._raw) if self._raw else ():
            assert self._raw is not None
            raw = sources.read(self._raw, file)
            detected = formats.detect(raw, self._raw)
            for nth, row in enumerate(raw.rows):
                if row.problem is not None:
                    self.unreadable += 1
                elif wanted(nth):
                    try:
                        turns = formats.understand(row, detected).turns
                    except formats.Unusable:
                        self.unreadable += 1
                        continue
                    yield from (text for turn in turns for key in ("content", "reasoning") if (text := turn.get(key)))


def _is_stage(path: Path) -> bool:
    return (path / SUMMARY).is_file() and (path / "train.jsonl").is_file()


def _of_stage(folder: Path, split: Split) -> Iterator[str]:
    """What is said in a split; a system prompt that stands in many rows counts once."""
    systems = set[str]()
    for record in _records(folder / f"{split}.jsonl"):
        for message in record.messages:
            if message.role == "system":
                if message.content in systems:
                    continue
                systems.add(message.content)
            yield from (text for text in (message.reasoning, message.content) if text)
            yield from (call.arguments for call in message.tool_calls)


def _records(path: Path) -> Iterator[Record]:
    if not path.is_file():  # a stage may have no validation split
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield Record.from_json(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"not a record: {error}",
                    where=f"{path}:{number}",
                    hint="this file is written by the data stage; run it again",
                ) from None
