"""What counts as the same answer, and which class an answer names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from tuneloop.types import Record

UNKNOWN = "(no known label)"
"""The class of an answer that is not exactly one of the known labels."""

_EDGE = re.compile(r"^[\s\"'`“”‘’「『]+|[\s\"'`“”‘’」』.,;:!?…。，；：！？、]+$")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af]")


def normalise(text: str) -> str:
    """NFKC, casefold, one space between words, no quotes around and no punctuation at the end."""
    text = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).casefold())
    while (stripped := _EDGE.sub("", text)) != text:
        text = stripped
    return text


def has_cjk(text: str) -> bool:
    """Whether there is a Chinese, Japanese or Korean character."""
    return _CJK.search(text) is not None


@dataclass(frozen=True, slots=True)
class Labels:
    """The classes of a task.

    ``by_answer`` maps a normalised answer to its class; a task is a classification when every record has a class and
    each class is always answered in the same words.
    """

    names: tuple[str, ...]
    by_answer: dict[str, str]

    def predict(self, answer: str) -> str:
        """The class an answer is, word for word; else ``UNKNOWN``."""
        return self.by_answer.get(normalise(answer), UNKNOWN)

    def mentioned(self, answer: str) -> str:
        """The one class an answer names anywhere in it; ``UNKNOWN`` when it names none or several."""
        if (exact := self.predict(answer)) != UNKNOWN:
            return exact
        text, found = _loose(normalise(answer)), set()
        for form in sorted(self.by_answer, key=len, reverse=True):
            pattern = _loose(form)
            edge = "" if has_cjk(pattern) else r"\b"
            text, hits = re.subn(f"{edge}{re.escape(pattern)}{edge}", "\x00", text)
            if hits:
                found.add(self.by_answer[form])
        return found.pop() if len(found) == 1 else UNKNOWN


def _loose(text: str) -> str:
    return re.sub(r"[\s_-]+", " ", text)


def labels_of(records: Sequence[Record]) -> tuple[Labels | None, str]:
    """The classes of a task, or None and why it is not a classification."""
    without = sum(r.label is None for r in records)
    if not records or without:
        return None, f"{without} of {len(records)} records have no label, so the answers are free text"
    forms: dict[str, str] = {}
    words: dict[str, str] = {}
    for r in records:
        label, form = str(r.label), normalise(r.answer)
        if forms.setdefault(form, label) != label or words.setdefault(label, form) != form:
            return None, f"the class {label!r} is not always answered in the same words, so the answers are free text"
    by_answer = {normalise(label): label for label in words} | forms
    return Labels(tuple(sorted(words)), by_answer), ""
