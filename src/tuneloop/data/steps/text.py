"""Repair of characters and spaces."""

from __future__ import annotations

from typing import ClassVar

import polars as pl

from tuneloop.data.frame import rewrite
from tuneloop.data.steps import StepBase

_SUSPECT = r"[\x{80}-\x{9f}\x{a0}-\x{24f}\x{370}-\x{52f}\x{2013}-\x{2122}\x{fffd}]"
"""Mojibake of UTF-8 read as a single-byte encoding always holds one of these; pure ASCII and Chinese never need ftfy."""
_TERMINAL = r"\x1b\[[0-9;?]*[A-Za-z]"
_CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x{80}-\x{84}\x{86}-\x{9f}\x{feff}\x{fff9}-\x{fffb}]"


def _fix(text: str) -> str:
    """ftfy, without what would change correct text: entities, curly quotes, full-width forms, ligatures.

    ftfy is run until nothing changes: text that was damaged twice is repaired twice.
    """
    import ftfy

    for _ in range(4):
        fixed: str = ftfy.fix_text(
            text,
            unescape_html=False,
            uncurl_quotes=False,
            fix_character_width=False,
            fix_latin_ligatures=False,
            normalization="NFC",
        )
        if fixed == text:
            break
        text = fixed
    return text


class Repair(StepBase):
    """Mojibake, Unicode normal form C, control characters, line ends."""

    name: ClassVar[str] = "repair"

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        return rewrite(frame, self.name, repair)


def repair(texts: pl.Series) -> pl.Series:
    suspects = texts.filter(texts.str.contains(_SUSPECT)).unique()
    fixed = pl.Series([_fix(text) for text in suspects], dtype=pl.String)
    different = fixed != suspects
    out = texts.replace(suspects.filter(different), fixed.filter(different)) if different.any() else texts
    out = out.str.replace_all(r"\r\n?", "\n").str.replace_all(_TERMINAL, "").str.replace_all(_CONTROL, "")
    return out.str.normalize("NFC")


class Whitespace(StepBase):
    """Odd spaces become spaces, runs become one, ends are cut. Indentation and code fences stay."""

    name: ClassVar[str] = "whitespace"

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        return rewrite(frame, self.name, whitespace)


def whitespace(texts: pl.Series) -> pl.Series:
    even = (
        texts.str.replace_all(r"[\x{a0}\x{1680}\x{2000}-\x{200a}\x{202f}\x{205f}\x{3000}]", " ")
        .str.replace_all(r"[\x{200b}\x{2060}\x{ad}]", "")  # zero-width joiners stay: emoji and Persian need them
        .str.replace_all(r"[\x{85}\x{2028}\x{2029}]", "\n")
    )
    tight = even.str.replace_all(r"(?m)[ \t]+$", "").str.replace_all(r"(\S)[ \t]{2,}", "$1 ")
    tight = tight.str.replace_all(r"(\S)\t", "$1 ").str.replace_all(r"\n{3,}", "\n\n")
    out = even.zip_with(texts.str.contains("```", literal=True), tight)
    return out.str.strip_chars("\n").str.strip_chars_end().str.replace(r"^[ \t]+([^\n]*)$", "$1")
