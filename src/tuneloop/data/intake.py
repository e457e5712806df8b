"""Sources -> parts of rows on disk: every physical row is in one of them, the unreadable ones with their reason."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path

import polars as pl

from tuneloop.data import formats, personal, sources
from tuneloop.data.config import DataConfig
from tuneloop.data.frame import SCHEMA, empty_frame, make_frame
from tuneloop.data.parts import PART_BYTES, Facts, Work
from tuneloop.data.readers.encoding import replace_surrogates
from tuneloop.data.rows import READ, RawFile, RawRow
from tuneloop.errors import DataError
from tuneloop.progress import Progress, log
from tuneloop.types import record_id

PHASE = "read"
MEDIA = "media"
"""Where images that rows refer to are saved, in the folder of the stage."""
_LISTED = 20
"""Of more files than this, only the first of each kind is named."""
_FLUSH_S = 120.0
"""A part is also closed after this time: pages and recordings are dear, and a killed run must not read them twice."""


_Read = tuple[RawRow, str, formats.Detected | None, int, str | None]
"""A raw row with the name and format of its file (None: it has none), the index of its source, and the split that one
prescribes."""
UNREADABLE = "unreadable"
"""The format of a file among several of which nothing can be used."""


class Intake:
    """Reads every source once, in order. What an earlier, killed run has read is not read again.

    Args:
        work: Where the parts go.
    """

    def __init__(self, config: DataConfig, work: Work) -> None:
        self._config, self._work = config, work
        self._sources = sources.files(config)
        self._rows: list[_Read] = []
        self._bytes = 0
        self._since = time.monotonic()
        self.marks: list[Facts] = []
        while (mark := work.marked(PHASE, len(self.marks))) is not None:
            self.marks.append(mark)
        self._read: dict[str, int] = {}
        self._finished: dict[str, Facts] = {}
        for mark in self.marks:
            for name, rows in mark["rows"].items():
                self._read[name] = self._read.get(name, 0) + rows
            self._finished |= mark["finished"]
        self._unsaved: dict[str, Facts] = {}
        self._shown: set[str] = set()

    @property
    def files(self) -> list[Facts]:
        """What was found out about each source, in order."""
        return [self._finished[source.name] for source in self._sources]

    @property
    def detected(self) -> str:
        """What the rows were, in words."""
        return "; ".join(dict.fromkeys(facts["detected"] for facts in self.files if facts["format"] != UNREADABLE))

    @property
    def rows(self) -> int:
        return sum(int(mark["height"]) for mark in self.marks)

    @property
    def unreadable(self) -> int:
        return sum(int(mark["dropped"]) for mark in self.marks)

    def parts(self) -> Iterator[int]:
        """Read, and name every part as soon as it is on disk (the earlier ones first).

        Raises:
            DataError: A source is missing, empty, not text, or has no usable column.
        """
        yield from range(len(self.marks))
        with Progress("reading", unit="rows") as progress:
            progress.resume_at(sum(self._read.values()))
            for source in self._sources:
                if source.name in self._finished:
                    continue
                for row in self._rows_of(source):
                    self._rows.append(row)
                    self._bytes += len(row[0].raw)
                    progress.update(1, source.name)
                    if len(self._rows) >= self._config.part_rows or self._bytes >= PART_BYTES or self._late():
                        yield self._close()
            if self._rows or self._unsaved:
                yield self._close()
        usable = [facts for facts in self.files if facts["format"] != UNREADABLE]
        if not usable:
            first = self.files[0]
            raise DataError(
                f"none of the {len(self.files):,} files can be used; the first is {first['detected']}",
                where=first["file"],
                hint="check the path, data.format and the extras that read such files",
            )
        formats.check_kept(self._config, [facts["missing"] for facts in usable])

    def _late(self) -> bool:
        return len(self._rows) % 16 == 0 and time.monotonic() - self._since > _FLUSH_S

    def _rows_of(self, source: sources.SourceFile) -> Iterator[_Read]:
        raw: RawFile | None = None
        detected: formats.Detected | None = None
        pinned = self._config.sources[source.source].split
        try:
            raw = sources.read(self._config, source, self._work.folder.parent / MEDIA)
            _refuse_unreadable(raw)
            detected = formats.detect(raw, self._config)
            words = detected.words
        except DataError as error:
            if sum(other.source == source.source for other in self._sources) == 1:
                raise
            raw, words = _refused(raw, source.name, error), f"{UNREADABLE}: {error.what}"
            log(f"{source.name}: not used: {error.what}")
        known = rows = self._read.get(source.name, 0)
        if detected and not known:
            self._announce(raw, detected)
        for row in islice(raw.rows, known, None):
            rows += 1
            yield row, raw.name, detected, source.source, pinned
        used = detected.used if detected else raw.columns
        self._unsaved[source.name] = {
            "file": raw.name,
            "rows": rows,
            "format": detected.kind if detected else UNREADABLE,
            "detected": words,
            "missing": list(detected.missing) if detected else [],
            "unused_columns": [c for c in raw.columns if c not in used],
            "split": pinned,
            **raw.facts,
        }

    def _announce(self, raw: RawFile, detected: formats.Detected) -> None:
        """Say what was found; of many files of one kind the first is shown with a row."""
        if detected.words not in self._shown:
            self._shown.add(detected.words)
            _show(raw, detected)
        elif len(self._sources) <= _LISTED:
            log(f"{raw.name}: {detected.words}")

    def _close(self) -> int:
        """Write a part and begin the next one."""
        part = len(self.marks)
        frame = understand(self._rows)
        self._work.put(PHASE, part, frame)
        rows = dict(frame["file"].value_counts(sort=False).iter_rows())
        self._finished |= self._unsaved
        facts = {"rows": rows, "finished": self._unsaved, "height": frame.height}
        facts["dropped"] = int(frame["dropped_step"].is_not_null().sum())
        self.marks.append(self._work.mark(PHASE, part, facts))
        self._rows, self._bytes, self._unsaved, self._since = [], 0, {}, time.monotonic()
        return part


def read_whole(config: DataConfig) -> pl.DataFrame:
    """All rows of small sources as one frame."""
    with tempfile.TemporaryDirectory() as folder:
        work = Work(Path(folder) / "tmp")
        parts = list(Intake(config, work).parts())
        return pl.concat([work.get(PHASE, part) for part in parts])


def understand(rows: Sequence[_Read]) -> pl.DataFrame:
    """Raw rows -> a frame. Rows of one file stand together, so each file is understood at once."""
    parts = [_understand(list(run)) for _, run in groupby(rows, key=lambda row: row[1])]
    return pl.concat(parts) if parts else empty_frame()


def _understand(rows: Sequence[_Read]) -> pl.DataFrame:
    """Rows of one file."""
    _, name, detected, source, pinned = rows[0]
    origins = [row.origin(name) for row, *_ in rows]
    raws = [replace_surrogates(row.raw) for row, *_ in rows]
    problems = [row.problem or (None, None) for row, *_ in rows]
    place = make_frame(
        {
            "id": list(map(record_id, raws, origins)),
            "origin": origins,
            "file": [name] * len(rows),
            "line": [row.line for row, *_ in rows],
            "raw": raws,
            "source": [source] * len(rows),
            "pinned": [pinned] * len(rows),
            "messages": [[]] * len(rows),
            "dropped_step": [step for step, _ in problems],
            "dropped_reason": [reason for _, reason in problems],
        }
    )
    readable = [k for k, row in enumerate(rows) if row[0].problem is None]
    if detected is None or not readable:
        return place
    meaning = formats.understand_all([rows[k][0].fields for k in readable], detected)
    if len(readable) < len(rows):
        at = pl.DataFrame({"_at": range(len(rows))}, schema={"_at": pl.Int64})
        known = meaning.with_columns(_at=pl.Series(readable, dtype=pl.Int64))
        meaning = at.join(known, on="_at", how="left", maintain_order="left").drop("_at")
        meaning = meaning.with_columns(pl.coalesce("messages", place["messages"]).alias("messages"))
    unusable = meaning["problem"].is_not_null()
    return place.with_columns(
        meaning.drop("problem"),
        dropped_step=pl.when(unusable).then(pl.lit(READ)).otherwise("dropped_step"),
        dropped_reason=pl.when(unusable).then(meaning["problem"]).otherwise("dropped_reason"),
    ).select(list(SCHEMA))


_NOTHING = formats.Parsed([])


def _refuse_unreadable(raw: RawFile) -> None:
    if not raw.head:
        raise DataError("the file holds no rows", where=f"{raw.name}:1", hint="check the export that wrote it")
    if all(row.problem for row in raw.head):
        first = raw.head[0]
        assert first.problem is not None
        raise DataError(
            f"none of its first {len(raw.head):,} rows can be read; the first: {first.problem[1]}",
            where=first.origin(raw.name),
            hint="check that the file is what its name says; data.encoding and data.delimiter override what is detected",
        )


def _refused(raw: RawFile | None, name: str, error: DataError) -> RawFile:
    """A file that cannot be used, among others that can: its rows go to the ledger with the reason."""
    if raw is None or not raw.head:
        return RawFile.start(name, [RawRow(1, "", problem=(READ, f"unreadable file: {error.what}"))])
    known = raw.rows

    def rows() -> Iterator[RawRow]:
        for row in known:
            row.problem = row.problem or (READ, f"unreadable file: {error.what}")
            yield row

    raw.rows = rows()
    return raw


def _show(raw: RawFile, detected: formats.Detected) -> None:
    """Say what was found, with one row as it will be understood."""
    kind = raw.facts.get("encoding")
    log(f"{raw.name}: " + (f"{kind}, " if kind else "") + detected.words)
    if unused := [c for c in raw.columns if c not in detected.used]:
        log(f"  not used: {', '.join(unused[:12])}")
    for row in raw.head:
        try:
            parsed = formats.understand(row, detected) if row.problem is None else _NOTHING
        except formats.Unusable:
            continue
        if parsed.turns and str(parsed.turns[0]["content"]).strip():
            said = [f"{t['role']}: {_short(str(t['content']))}" for t in parsed.turns[:3]]
            if parsed.label is not None:
                said.append(f"class: {_short(parsed.label)}")
            log("  e.g. " + " | ".join(said))
            break
    log("  not what you meant? set data.format, data.prompt_column, data.response_column or data.label_column")


def _short(text: str) -> str:
    line = " ".join(personal.mask(text).split())
    return line if len(line) <= 70 else line[:69] + "…"
