"""The ``data.documents`` section: how pages, scans, recordings and other documents become rows."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import field_validator

from tuneloop.config import Config, ConfigPath
from tuneloop.errors import ConfigError, MissingExtraError

Cut = Literal["auto", "lines", "paragraphs", "sections", "file"]

SPEECH_FILES = ("model.bin", "config.json", "tokenizer.json")
"""What a CTranslate2 Whisper folder must hold to load without the network (its vocabulary is a .json or a .txt)."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".ogg")

_NEEDS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    **dict.fromkeys((".html", ".htm", ".xhtml"), ("documents", ("trafilatura", "lxml_html_clean", "selectolax"))),
    ".pdf": ("documents", ("pypdfium2",)),
    ".docx": ("documents", ("docx",)),
    **dict.fromkeys(IMAGE_SUFFIXES, ("ocr", ("rapidocr", "onnxruntime", "PIL"))),
    **dict.fromkeys(AUDIO_SUFFIXES, ("speech", ("faster_whisper", "av"))),
    ".dcm": ("dicom", ("pydicom", "PIL")),
}
"""Suffix -> (the extra that reads it, the modules that must be there)."""
_PACKED = (".gz", ".zst", ".bz2", ".xz")


class DocumentConfig(Config):
    """What one row of a document is, and with which local models scans and recordings are read."""

    aliases: ClassVar[Mapping[str, str]] = {"whisper_model": "speech_model", "language": "speech_language"}

    text: Cut = "auto"
    """A row of a .txt or .md file: lines, paragraphs (blank lines between), sections (Markdown headings) or the file.
    auto: lines of .txt, sections of .md."""

    html: Literal["precision", "balanced", "recall"] = "precision"
    """How much of a web page is its article: precision leaves out what may be boilerplate, recall keeps it."""

    docx: Literal["sections", "file"] = "sections"
    """A row of a .docx file: each section under a heading, or the whole file."""

    pdf: Literal["pages", "file"] = "pages"
    """A row of a .pdf file: each page, or the whole file."""

    ocr: bool = True
    """Recognise PDF pages that have no text. Off, or without the ocr extra, they are dropped with a reason."""

    ocr_resolution_dpi: int = 200
    """Resolution at which a scanned PDF page is drawn for recognition."""

    ocr_min_confidence: float = 0.5
    """Recognised lines below this confidence (0 to 1) are left out and counted."""

    speech: Literal["segments", "file"] = "segments"
    """A row of a recording: each segment (a sentence or two), or the whole file."""

    speech_model: ConfigPath | None = None
    """Folder of a Whisper model in CTranslate2 format, for recordings. Nothing is downloaded."""

    speech_language: str | None = None
    """Language of the recordings, e.g. zh; empty: found from the first 30 seconds of each."""

    @field_validator("ocr_resolution_dpi")
    @classmethod
    def _readable_resolution(cls, value: int) -> int:
        if not 72 <= value <= 600:
            raise ValueError(f"must be from 72 to 600, got {value}\nhint: 200 reads ordinary print")
        return value

    @field_validator("ocr_min_confidence")
    @classmethod
    def _a_share(cls, value: float) -> float:
        if not 0 <= value <= 1:
            raise ValueError(f"must be from 0 to 1, got {value}\nhint: 0 keeps every recognised line")
        return value


def check(config: DocumentConfig, paths: Iterable[Path]) -> None:
    """Before any work starts: everything that the files need is there.

    Args:
        paths: The files of the sources; only their suffixes are looked at.

    Raises:
        MissingExtraError: A kind of file needs an extra that is not installed.
        ConfigError: There are recordings, and no usable speech model is named.
    """
    first: dict[str, Path] = {}
    for path in paths:
        inner = path.with_suffix("") if path.suffix.lower() in _PACKED else path
        first.setdefault(inner.suffix.lower(), path)
    for suffix, path in first.items():
        extra, modules = _NEEDS.get(suffix, ("", ()))
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if missing:
            raise MissingExtraError(
                f"{suffix} files need {', '.join(missing)}, which is not installed",
                where=str(path),
                hint=f"pip install 'tuneloop[{extra}]'",
            )
        if suffix in AUDIO_SUFFIXES:
            speech_folder(config, str(path))


def speech_folder(config: DocumentConfig, where: str) -> Path:
    """The folder of the speech model.

    Raises:
        ConfigError: None is named, or it is not one that loads without the network.
    """
    folder = config.speech_model
    if folder is None:
        raise ConfigError(
            "a recording needs a speech model",
            where=where,
            hint="data.documents.speech_model: FOLDER of a Whisper model in CTranslate2 format",
        )
    lacking = [name for name in SPEECH_FILES if not (folder / name).is_file()]
    if not any((folder / f"vocabulary.{kind}").is_file() for kind in ("json", "txt")):
        lacking.append("vocabulary.json")
    if lacking:
        raise ConfigError(
            f"not a CTranslate2 Whisper model: {', '.join(lacking)} missing",
            where=f"data.documents.speech_model: {folder}",
            hint="convert one: ct2-transformers-converter --model MODEL --output_dir FOLDER --copy_files tokenizer.json",
        )
    return folder
