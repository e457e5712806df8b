"""Which files, tables and data sets a configuration means, what they are called, and how each is read."""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tuneloop.data import documents
from tuneloop.data.config import DataConfig, SourceConfig
from tuneloop.data.readers import BY_SUFFIX, DATABASES, ReadOptions, is_database, is_readable, reader_of
from tuneloop.data.readers.unpack import inner_name
from tuneloop.data.rows import RawFile
from tuneloop.errors import DataError
from tuneloop.progress import log
from tuneloop.rundir import MANIFEST, run_of, sha256_file

SUFFIXES = tuple(suffix for suffix in BY_SUFFIX if suffix not in DATABASES)

_TABLES = (".csv", ".tsv", ".tab", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".xlsx")
"""Files whose rows may refer to pictures and recordings beside them."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file, table or query of a source; ``name`` is short, unambiguous, and stands in origins and messages.

    ``path`` is None for a database that is named by its URL.
    """

    path: Path | None
    name: str
    source: int


@dataclass(frozen=True, slots=True)
class _Found:
    """Before it has a name: ``parts`` tell it apart from every other, ``depth`` of them (from the end) are enough to say."""

    path: Path | None
    parts: tuple[str, ...]
    depth: int = 1


def files(config: DataConfig) -> list[SourceFile]:
    """Every file, table and query of every source, in order. A data set of a hub is fetched if it is not here.

    Raises:
        DataError: A source names nothing, or two sources name the same file.
    """
    found = [(one, i) for i, source in enumerate(config.sources) for one in _expand(source)]
    seen: set[tuple[str, ...]] = set()
    for one, _ in found:
        if one.parts in seen:
            where = str(one.path) if one.path else "/".join(one.parts)
            raise DataError("the file is named twice", where=where, hint="keep it in one entry of data.sources")
        seen.add(one.parts)
    documents.check(config.documents, [one.path for one, _ in found if one.path is not None])
    names = _short_names([one for one, _ in found])
    return [SourceFile(one.path, name, i) for (one, i), name in zip(found, names, strict=True)]


def _expand(source: SourceConfig) -> list[_Found]:
    rows_of = source.table or (f"query-{hashlib.sha256(source.query.encode()).hexdigest()[:8]}" if source.query else "")
    if source.url is not None:
        from tuneloop.data.readers.database import place

        host, database = place(source.url)
        return [_Found(None, (host, database, rows_of), 2)]
    if source.dataset is not None:
        from tuneloop.data import hub

        folder, chosen = hub.fetch(
            source.dataset, hub=source.hub, name=source.name, revision=source.revision, part=source.part
        )
        owner = tuple(part for part in Path(source.dataset).parts if part not in ("/", "."))
        version = (source.revision,) if source.revision else ()
        return [_Found(folder / file, (*version, *owner, *Path(file).parts)) for file in chosen]
    assert source.path is not None
    if rows_of:
        return [_Found(source.path, (*_one_file(source.path).resolve().parts, rows_of), 2)]
    return [_Found(path, path.resolve().parts) for path in _paths(source.path)]


def _paths(path: Path) -> list[Path]:
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if is_readable(p) and p.is_file())
        inside = _without_runs(inside, path)
        if not inside:
            raise DataError("no data file in this folder", where=str(path), hint=f"it may hold {' '.join(SUFFIXES)}")
        return _without_media(inside, path)
    if any(c in path.name for c in "*?[") and not path.exists():
        matching = sorted(p for p in path.parent.glob(path.name) if p.is_file())
        if not matching:
            raise DataError("no file matches", where=str(path), hint=f"look there: ls {path.parent}")
        return matching
    return [_one_file(path)]


def _without_runs(inside: list[Path], folder: Path) -> list[Path]:
    """Runs of Tuneloop that lie in the folder are results, not raw data."""
    runs = {run for p in inside if p.name == MANIFEST and (run := run_of(p)) is not None and run != folder}
    runs = {run for run in runs if folder in run.parents}
    kept = [p for p in inside if runs.isdisjoint(p.parents)]
    if len(kept) < len(inside):
        _say(f"{folder}: runs of Tuneloop inside are not read; to read a file of one, name it")
    return kept


@cache
def _say(text: str) -> None:
    """Once: sources are listed several times in a run."""
    log(text)


def _without_media(inside: list[Path], folder: Path) -> list[Path]:
    """The pictures and recordings beside tables belong to the rows of these tables."""
    media = [p for p in inside if p.suffix.lower() in (*documents.IMAGE_SUFFIXES, *documents.AUDIO_SUFFIXES)]
    tables = [p for p in inside if inner_name(p).suffix.lower() in _TABLES]
    if not media or not tables:
        return inside
    _say(
        f"{folder}: {len(media):,} pictures and recordings beside {len(tables):,} data files are taken as parts of their rows"
    )
    _say("  to read them as documents, name them: {path: FOLDER/*.png}")
    return [p for p in inside if p not in set(media)]


def _one_file(path: Path) -> Path:
    if not path.is_file():
        raise DataError("no such file", where=str(path), hint=_similar(path))
    return path


def _similar(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist either; paths are relative to the YAML file"
    names = [p.name for p in path.parent.iterdir() if inner_name(p).suffix.lower() in BY_SUFFIX]
    near = difflib.get_close_matches(path.name, names, 1, 0.5)
    return f"did you mean {path.parent / near[0]}?" if near else "paths are relative to the YAML file"


def _short_names(found: Sequence[_Found]) -> list[str]:
    """``rows.csv``; where two share a name, as many parent folders as tell them apart."""
    depth = [one.depth for one in found]
    while True:
        names = ["/".join(one.parts[-depth[i] :]) for i, one in enumerate(found)]
        counts = Counter(names)
        clashing = [i for i, name in enumerate(names) if counts[name] > 1 and depth[i] < len(found[i].parts)]
        if not clashing:
            return names
        for i in clashing:
            depth[i] += 1


def input_hashes(config: DataConfig) -> dict[str, str]:
    """Name of each file -> SHA-256 of its bytes; of a table or query, of the rows that it gives now.

    Raises:
        DataError: A source is missing, or a database refuses.
    """
    return {file.name: _hash(config, file) for file in files(config)}


def _hash(config: DataConfig, file: SourceFile) -> str:
    source = config.sources[file.source]
    if file.path is not None and not (source.table or source.query):
        return sha256_file(file.path)
    digest = hashlib.sha256()
    for row in read(config, file).rows:
        digest.update(row.raw.encode())
        digest.update(b"\n")
    return digest.hexdigest()


def read(config: DataConfig, file: SourceFile, media_folder: Path | None = None) -> RawFile:
    """Begin to read one file, table or query.

    Args:
        media_folder: Where images that rows refer to are saved; None: text only.

    Raises:
        DataError: It is empty, damaged as a whole, or cannot be opened; or a database refuses.
    """
    source = config.sources[file.source]
    options = ReadOptions(config.encoding, config.delimiter, source.table, source.query, config.documents, media_folder)
    if file.path is None:
        from tuneloop.data.readers import database

        assert source.url is not None
        return database.read_url(source.url, file.name, options)
    if (options.table or options.query) and not is_database(file.path):
        raise DataError(
            "table and query are for databases", where=str(file.path), hint="remove them, or name a SQLite file"
        )
    return reader_of(file.path)(file.path, file.name, options)
