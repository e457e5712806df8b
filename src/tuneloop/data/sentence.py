"""Whether one sentence insults, without a frame: for the gateway, which judges answers as they come."""

from __future__ import annotations

import re
from typing import NamedTuple

from tuneloop.data import linear

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_LATIN = re.compile(r"[A-Za-zÀ-ɏ]")
_NO_WORDS = re.compile(r"&#?\w+;|https?://\S+|@\w+:?|\bRT\b")
_LONGEST = 100
"""Nine of ten posts that the Chinese model was trained on have under 100 characters."""
_FEWEST_HAN = 2
_FEWEST_LATIN = 3


class Offence(NamedTuple):
    """How likely a sentence insults, by the Chinese and by the English model: 0 from a model whose script it has not."""

    zh: float
    en: float


def english_words(text: str) -> str:
    """A post without what the English model must not learn: links, names of users, entities of HTML."""
    return _NO_WORDS.sub(" ", text)


def offensive(sentence: str) -> Offence:
    """Judge one sentence with the linear models that ship with Tuneloop (``data/weights/README.md``)."""
    han, latin = len(_HAN.findall(sentence)), len(_LATIN.findall(sentence))
    zh = en = 0.0
    if han >= _FEWEST_HAN and 4 * han >= latin:
        model = linear.load("toxicity_zh")
        pieces = (sentence[i : i + _LONGEST] for i in range(0, len(sentence), _LONGEST))
        zh = max((model.probability(p) for p in pieces if len(_HAN.findall(p)) >= _FEWEST_HAN), default=0.0)
    if latin >= _FEWEST_LATIN and latin >= han:
        en = linear.load("toxicity_en").probability(english_words(sentence))
    return Offence(zh, en)
