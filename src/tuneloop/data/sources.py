"""Which files a configuration means, what they are called, and how each is read."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tuneloop.data import documents
from tuneloop.data.config import DataConfig, SourceConfig
from tuneloop.data.readers import BY_SUFFIX, ReadOptions, reader_of
from tuneloop.data.rows import RawFile
from tuneloop.errors import DataError
from tuneloop.rundir import sha256_file

SUFFIXES = tuple(BY_SUFFIX)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source; ``name`` is its shortest unambiguous ending and stands in origins and messages."""

    path: Path
    name: str
    source: int


def files(config: DataConfig) -> list[SourceFile]:
    """Every file of every source, in order.

    Raises:
        DataError: A source names nothing, or two sources name the same file.
    """
    found = [(path, i) for i, source in enumerate(config.sources) for path in _expand(source)]
    paths = [path.resolve() for path, _ in found]
    for k, path in enumerate(paths):
        if path in paths[:k]:
            raise DataError("the file is named twice", where=str(path), hint="keep it in one entry of data.sources")
    documents.check(config.documents, paths)
    return [SourceFile(path, name, i) for (path, i), name in zip(found, _short_names(paths), strict=True)]


def _expand(source: SourceConfig) -> list[Path]:
    path = source.path
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not inside:
            raise DataError("no data file in this folder", where=str(path), hint=f"it may hold {' '.join(SUFFIXES)}")
        return inside
    if any(c in path.name for c in "*?[") and not path.exists():
        matching = sorted(p for p in path.parent.glob(path.name) if p.is_file())
        if not matching:
            raise DataError("no file matches", where=str(path), hint=f"look there: ls {path.parent}")
        return matching
    if not path.is_file():
        raise DataError("no such file", where=str(path), hint=_similar(path))
    return [path]


def _similar(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist either; paths are relative to the YAML file"
    names = [p.name for p in path.parent.iterdir() if p.suffix.lower() in SUFFIXES]
    near = difflib.get_close_matches(path.name, names, 1, 0.5)
    return f"did you mean {path.parent / near[0]}?" if near else "paths are relative to the YAML file"


def _short_names(paths: Sequence[Path]) -> list[str]:
    """``rows.csv``; where two files share a name, as many parent folders as tell them apart."""
    depth = [1] * len(paths)

    def short(i: int) -> str:
        return "/".join(paths[i].parts[-depth[i] :])

    while True:
        names = [short(i) for i in range(len(paths))]
        clashing = [i for i, name in enumerate(names) if names.count(name) > 1 and depth[i] < len(paths[i].parts)]
        if not clashing:
            return names
        for i in clashing:
            depth[i] += 1


def input_hashes(config: DataConfig) -> dict[str, str]:
    """Name of each file -> SHA-256 of its bytes."""
    return {file.name: sha256_file(file.path) for file in files(config)}


def read(config: DataConfig, file: SourceFile) -> RawFile:
    """Begin to read one file.

    Raises:
        DataError: It is empty, damaged as a whole, or cannot be opened.
    """
    options = ReadOptions(encoding=config.encoding, delimiter=config.delimiter, documents=config.documents)
    return reader_of(file.path)(file.path, file.name, options)
