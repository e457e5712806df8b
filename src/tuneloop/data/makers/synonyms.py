"""Other words for the same."""

from __future__ import annotations

import random as dice
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import Field, model_validator

from tuneloop.config import ConfigPath
from tuneloop.data.makers import wordlist, wordnet
from tuneloop.data.makers.edits import Edit, apply
from tuneloop.data.makers.entities import entities, shifted
from tuneloop.data.makers.protect import protected
from tuneloop.data.makers.rows import Draft, RowMaker, fields_text

_WORD = re.compile(r"(?<![\w@/.'’-])[a-z]{4,}(?![\w@/'’-]|\.\w)")
"""In lower case only: a capital may begin a name."""
_ARTICLE = re.compile(r"(?i)\b(an?)\s+\Z")

_wordnet = lru_cache(maxsize=2)(wordnet.WordNet)
_word_list = lru_cache(maxsize=2)(wordlist.read)


class Spot(NamedTuple):
    """A word that can be replaced, and by what."""

    start: int
    end: int
    others: Sequence[str]


class Synonyms(RowMaker):
    """New rows with words of the user turns replaced by synonyms; answers and classes stay.

    Neither source knows the context, so only the certain is taken. English: base forms with one part of speech, by words
    whose most frequent sense is the same synset. Word list: words of one group only, found by longest match. Inflected
    forms, ambiguous words, code, addresses, numbers, ``[TAGS]`` and entity values are left alone.
    """

    name: ClassVar[str] = "synonyms"

    wordnet: ConfigPath | None = None
    """For English: folder with WordNet's index.* and data.* files, e.g. /usr/share/wordnet."""

    word_list: ConfigPath | None = None
    """For Chinese (or any language): a file in Cilin form, or with one group of synonyms a line, separated by tabs."""

    word_rate: float = Field(default=0.3, gt=0.0, le=1.0)
    """Share of the words that have synonyms that are replaced; at least one in each new row."""

    @model_validator(mode="after")
    def _some_source(self) -> Synonyms:
        if self.wordnet is None and self.word_list is None:
            raise ValueError(
                "no source of synonyms is named\nhint: wordnet: /usr/share/wordnet, or word_list: cilin.txt"
            )
        return self

    def ready(self, *, can_ask: bool) -> None:
        if self.wordnet is not None:
            _wordnet(self.wordnet)
        if self.word_list is not None:
            _word_list(self.word_list)

    def remake(self, row: Mapping[str, Any], random: dice.Random) -> Draft | None:
        fields = row["fields"]
        values = [entity.value for entity in entities(fields)]
        users = [k for k, turn in enumerate(row["messages"]) if turn["role"] == "user"]
        spots = [(k, spot) for k in users for spot in self._spots(row["messages"][k]["content"], values)]
        if not spots:
            return None
        replaced = max(1, sum(random.random() < self.word_rate for _ in spots))
        hit = sorted(random.sample(range(len(spots)), replaced))
        for k in users:
            mine = [spots[n][1] for n in hit if spots[n][0] == k]
            edits = [Edit(spot.start, spot.end, random.choice(spot.others)) for spot in mine]
            row["messages"][k]["content"] = apply(row["messages"][k]["content"], edits)
            if k == users[0]:
                fields = shifted(fields, edits)
        return Draft(row["messages"], fields_text(fields))

    def _spots(self, text: str, values: Sequence[str]) -> list[Spot]:
        keep = protected(text, values)
        found = sorted([*self._from_wordnet(text), *self._from_list(text)])
        out: list[Spot] = []
        for spot in found:
            if not any(keep[spot.start : spot.end]) and (not out or out[-1].end <= spot.start):
                out.append(spot)
        return out

    def _from_wordnet(self, text: str) -> Iterator[Spot]:
        if self.wordnet is None:
            return
        source = _wordnet(Path(self.wordnet))
        for match in _WORD.finditer(text):
            others = source.synonyms(match[0])
            if article := _ARTICLE.search(text, 0, match.start()):
                vowel = article[1].lower() == "an"
                others = tuple(other for other in others if (other[0] in "aeiou") == vowel)
            if others:
                yield Spot(match.start(), match.end(), others)

    def _from_list(self, text: str) -> Iterator[Spot]:
        if self.word_list is None:
            return
        source = _word_list(Path(self.word_list))
        for found in source.find(text):
            if len(found.word) > 1 and (others := source.synonyms(found.word)):
                yield Spot(found.start, found.end, others)
