"""Simplified and traditional Chinese."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import polars as pl

from tuneloop.data.frame import rewrite
from tuneloop.data.steps import StepBase
from tuneloop.errors import need

Script = Literal["simplified", "traditional"]

_OPENCC: dict[Script, tuple[str, str, str]] = {
    "simplified": ("t2s", "TSCharacters.txt", "TSPhrases.txt"),
    "traditional": ("s2t", "STCharacters.txt", "STPhrases.txt"),
}
"""Script -> opencc's name of the conversion, its dictionaries of characters and of phrases."""
_KANA_SHARE = 0.2
"""Kana for each Han character: Japanese has more, Chinese with a decorative の has less."""


class Chinese(StepBase):
    """Writes Chinese text in one script, phrase by phrase (OpenCC's dictionaries: 头发 → 頭髮, 出发 → 出發).

    Needs the extra ``chinese``. Class names are not touched.
    """

    name: ClassVar[str] = "chinese"

    to: Script = "simplified"
    """simplified or traditional."""

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        return rewrite(frame, self.name, lambda texts: convert(texts, self.to))


def convert(texts: pl.Series, to: Script) -> pl.Series:
    """The texts in another script; the order is kept.

    Japanese is left alone, and so is a text with characters that only the wanted script has and none that only the
    other one has. Where phrases overlap, the longest matches from the left and from the right can disagree (进行针对性治疗): those texts
    are given to opencc itself, which looks for the longest phrase of the whole sentence first.

    Raises:
        MissingExtraError: opencc is not installed.
    """
    other: Script = "traditional" if to == "simplified" else "simplified"
    chinese = texts.filter(texts.str.contains(r"\p{Han}")).unique(maintain_order=True)
    kana = chinese.str.count_matches(r"[\p{Hiragana}\p{Katakana}]")
    chinese = chinese.filter(kana <= _KANA_SHARE * chinese.str.count_matches(r"\p{Han}"))
    if chinese.len():
        wanted, foreign = _dictionary(other).only_source, _dictionary(to).only_source
        chinese = chinese.filter(chinese.str.contains(foreign) | ~chinese.str.contains(wanted))
    if not chinese.len():
        return texts
    rules = _dictionary(to)
    after = chinese.str.replace_many(*rules.forward, leftmost=True)
    mirrored = chinese.str.reverse().str.replace_many(*rules.backward, leftmost=True).str.reverse()
    unclear = after != mirrored
    if unclear.any():
        after = after.scatter(unclear.arg_true(), [_opencc(to).convert(text) for text in chinese.filter(unclear)])
    changed = after != chinese
    return texts.replace(chinese.filter(changed), after.filter(changed)) if changed.any() else texts


@dataclass(frozen=True, slots=True)
class _Dictionary:
    forward: tuple[pl.Series, pl.Series]
    """Phrases and their conversions, longest first: of matches that begin together the first one counts."""
    backward: tuple[pl.Series, pl.Series]
    """The same, written from right to left."""
    only_source: str
    """A character class of what no text in the converted script holds."""


@lru_cache(maxsize=2)
def _dictionary(to: Script) -> _Dictionary:
    _, characters, phrases = _OPENCC[to]
    choices = _read(characters)
    words = {key: values[0] for key, values in (choices | _read(phrases)).items() if len(key) > 1 or key != values[0]}
    keys = sorted(words, key=lambda key: (-len(key), key))
    only_source = "".join(key for key, values in choices.items() if key not in values)
    return _Dictionary(
        _columns(keys, [words[key] for key in keys]),
        _columns([key[::-1] for key in keys], [words[key][::-1] for key in keys]),
        f"[{only_source}]",
    )


def _read(file: str) -> dict[str, list[str]]:
    """Key -> its conversions, the usual one first."""
    path = Path(str(need("opencc", "chinese").__file__)).parent / "dictionary" / file
    lines = (line.strip().partition("\t") for line in path.read_text(encoding="utf-8").splitlines())
    return {key: values.split(" ") for key, _, values in lines if values}


def _columns(keys: list[str], values: list[str]) -> tuple[pl.Series, pl.Series]:
    return pl.Series(keys).implode(), pl.Series(values).implode()


class _Converter(Protocol):
    def convert(self, string: str) -> str: ...


@lru_cache(maxsize=2)
def _opencc(to: Script) -> _Converter:
    converter: _Converter = need("opencc", "chinese").OpenCC(_OPENCC[to][0])
    return converter
