"""Typing errors: the rows that users will send are not as clean as the ones that were collected."""

from __future__ import annotations

import math
import random as dice
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from tuneloop.data.makers.edits import Edit, apply
from tuneloop.data.makers.entities import entities, shifted
from tuneloop.data.makers.protect import protected
from tuneloop.data.makers.rows import Draft, RowMaker, fields_text
from tuneloop.errors import need

_PLAIN_WORD = re.compile(
    r"(?:(?<=[\s\"'“‘(,;:，。；：、（「《—\-\u4e00-\u9fff])|\A)[A-Za-z][a-z]{3,}(?![\w@/\\:=({\[<]|\.\w)"
)
"""A word of natural text: four letters or more, no camelCase, no acronym, not a piece of an address or of code."""
_CHINESE = re.compile(r"[\u4e00-\u9fff]+")
_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_KEY_SHIFT = (0.0, 0.25, 0.75)
"""How far each row of keys stands to the right of the row of q, in key widths (ISO/IEC 9995)."""
_REACH = 1.3
"""Centres of neighbouring keys are nearer than this: s has w, e, a, d, z, x."""


@cache
def keyboard_neighbours() -> Mapping[str, str]:
    """Letter -> the letters beside it on a QWERTY keyboard."""
    at = {
        c: (x + s, y) for y, (row, s) in enumerate(zip(_KEYBOARD, _KEY_SHIFT, strict=True)) for x, c in enumerate(row)
    }
    return {a: "".join(b for b in sorted(at) if b != a and math.dist(at[a], at[b]) < _REACH) for a in at}


@cache
def common_characters() -> dict[str, None]:
    """The 3,755 characters of GB 2312-1980 level 1, those in common use, in the order of the standard."""
    codes = (
        bytes((high, low)) for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF) if (high, low) <= (0xD7, 0xF9)
    )
    return dict.fromkeys(b"".join(codes).decode("gb2312"))


@cache
def homophones() -> Mapping[str, str]:
    """Syllable without tone -> the common characters read so: what an input method offers for it."""
    out: dict[str, str] = {}
    for character in common_characters():
        syllable = _syllables(character)[0]
        out[syllable] = out.get(syllable, "") + character
    return out


def _syllables(text: str) -> list[str]:
    """One syllable without tone for each Chinese character, polyphones read by their context."""
    pypinyin = need("pypinyin", "chinese")
    found: list[str] = pypinyin.lazy_pinyin(text, errors=list)
    return found


class Typos(RowMaker):
    """New rows with typing errors in the user turns; answers and classes stay.

    English words get one of the four errors of Damerau ("A technique for computer detection and correction of spelling
    errors", 1964): a wrong key (the one beside it), a letter missing, doubled, or swapped with the next; the first
    letter, which is seldom wrong, stays. A Chinese character becomes another common one with the same syllable, as an
    input method mistakes it. Code, addresses, numbers, ``[TAGS]`` and entity values are left alone.
    """

    name: ClassVar[str] = "typos"

    character_rate: float = Field(default=0.05, gt=0.0, le=0.5)
    """Share of the letters and characters that may be wrong that become wrong; at least one in each new row."""

    def remake(self, row: Mapping[str, Any], random: dice.Random) -> Draft | None:
        fields = row["fields"]
        values = [entity.value for entity in entities(fields)]
        spots = [
            (message, place)
            for message, turn in enumerate(row["messages"])
            if turn["role"] == "user"
            for place in _spots(turn["content"], protected(turn["content"], values))
        ]
        if not spots:
            return None
        wrong = max(1, sum(random.random() < self.character_rate for _ in spots))
        hit = sorted(random.sample(range(len(spots)), wrong))
        users = [k for k, turn in enumerate(row["messages"]) if turn["role"] == "user"]
        for message in users:
            text = row["messages"][message]["content"]
            edits = _edits(text, [spots[k][1] for k in hit if spots[k][0] == message], random)
            row["messages"][message]["content"] = apply(text, edits)
            if message == users[0]:
                fields = shifted(fields, edits)
        return Draft(row["messages"], fields_text(fields))


class Spot(NamedTuple):
    """A character that may become wrong, and what it may become; '' for a letter of an English word."""

    at: int
    alike: str


def _spots(text: str, keep: bytearray) -> list[Spot]:
    """Where a mistake may be made, in order."""
    out = []
    for word in _PLAIN_WORD.finditer(text):
        if not any(keep[word.start() : word.end()]):
            out += [Spot(at, "") for at in range(word.start() + 1, word.end())]
    for run in _CHINESE.finditer(text):
        for at, syllable in enumerate(_syllables(run[0]), run.start()):
            alike = homophones().get(syllable, "").replace(text[at], "")
            if alike and not keep[at] and text[at] in common_characters():
                out.append(Spot(at, alike))
    return sorted(out)


def _edits(text: str, spots: Sequence[Spot], random: dice.Random) -> list[Edit]:
    """A mistake at each spot, except where the one before reaches into it."""
    out: list[Edit] = []
    for spot in spots:
        edit = Edit(spot.at, spot.at + 1, random.choice(spot.alike)) if spot.alike else _mistype(text, spot.at, random)
        if not out or out[-1].end <= edit.start:
            out.append(edit)
    return out


def _mistype(text: str, at: int, random: dice.Random) -> Edit:
    letter = text[at]
    following = text[at + 1 : at + 2]
    kinds = ["wrong", "missing", "doubled"]
    if following.isascii() and following.isalpha() and following != letter:
        kinds.append("swapped")
    match random.choice(kinds):
        case "wrong":
            return Edit(at, at + 1, random.choice(keyboard_neighbours()[letter]))
        case "missing":
            return Edit(at, at + 1, "")
        case "doubled":
            return Edit(at, at + 1, letter * 2)
        case _:
            return Edit(at, at + 2, following + letter)
