"""Model folders on disk: what belongs to them, what they are recognised by, how one is replaced all at once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuneloop.config import hash_json
from tuneloop.errors import ModelError
from tuneloop.rundir import disk_error_in, fsync_path, sha256_file

MANIFEST = "tuneloop.json"
_SAMPLE_BYTES = 1 << 20


def fingerprint(path: Path) -> str:
    """Recognises a model folder without reading all of it (64 hex digits).

    The manifest's hashes where there is one; else the small files whole, and of each weight file its size, its first
    and its last MiB. It tells models apart; it does not prove that a file is undamaged (``verify`` does).
    """
    if (path / MANIFEST).is_file():
        return hash_json({n: f["sha256"] for n, f in read_object(path / MANIFEST).get("files", {}).items()})
    seen: dict[str, str] = {}
    for file in content(path):
        size = file.stat().st_size
        if size <= 2 * _SAMPLE_BYTES:
            seen[file.relative_to(path).as_posix()] = sha256_file(file)
            continue
        with file.open("rb") as handle:
            digest = hashlib.sha256(handle.read(_SAMPLE_BYTES))
            handle.seek(-_SAMPLE_BYTES, os.SEEK_END)
            digest.update(handle.read())
        seen[file.relative_to(path).as_posix()] = f"{size}:{digest.hexdigest()}"
    return hash_json(seen)


@contextmanager
def staging(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place when the block ends well, and vanishes otherwise.

    Raises:
        ResourceError: The disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
        fsync_path(path.parent)
    except Exception as error:
        if explained := disk_error_in(error, path):
            raise explained from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def folder_name(path: Path) -> str:
    """The folder's name; of a snapshot in the hub's cache (``models--owner--name/snapshots/<commit>``) owner/name."""
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):
        return path.parent.parent.name.removeprefix("models--").replace("--", "/")
    return path.name


def content(path: Path) -> list[Path]:
    """The files that make the model what it is: not the manifest, the card or hidden files."""
    return sorted(
        p
        for p in path.rglob("*")
        if p.is_file()
        and p.name not in (MANIFEST, "README.md")
        and not any(part.startswith(".") for part in p.relative_to(path).parts)
    )


def template_text(path: Path) -> str:
    if (path / "chat_template.jinja").is_file():
        return (path / "chat_template.jinja").read_text(encoding="utf-8")
    config = read_object(path / "tokenizer_config.json") if (path / "tokenizer_config.json").is_file() else {}
    text = config.get("chat_template")
    return text if isinstance(text, str) else ""


def read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot be read: {error}", where=str(path), hint="copy the model folder again") from None
    if not isinstance(found, dict):
        raise ModelError("not a JSON object", where=str(path), hint="copy the model folder again")
    return found
