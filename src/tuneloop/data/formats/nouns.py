"""The nouns of understanding: what one row says, and what was found out about a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tuneloop.data.formats.flat import Flat

Row = Mapping[str, Any]
Turn = dict[str, str | None]
"""role, content, reasoning; tool_calls and media (JSON text) where there are any. See ``frame.TURN``."""


class Unusable(ValueError):
    """A row that its format does not allow; the message is ``reason: detail`` and goes to the ledger."""


class Parsed(NamedTuple):
    """One row, understood; every field is what the column of that name holds in the frame.

    A classification row has no assistant turn: its label is the answer. ``tools`` and ``fields`` are JSON text.
    """

    turns: list[Turn]
    label: str | None = None
    desirable: bool | None = None
    tools: str | None = None
    fields: str | None = None


Parse = Callable[[Row], Parsed]


@dataclass(frozen=True, slots=True)
class Detected:
    """A format with the columns it uses. ``words`` is what the person watching reads.

    ``flat`` describes rows that are nothing but columns of text: such rows are understood a part at a time.
    ``missing`` are columns that the project keeps and that this file does not have.
    """

    kind: str
    words: str
    used: tuple[str, ...]
    parse: Parse
    flat: Flat | None = None
    keep: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """What some columns contribute to a conversation."""

    words: str
    used: tuple[str, ...]
    turns: Callable[[Row], list[Turn]]


def unique(*columns: str | None) -> tuple[str, ...]:
    """Column names in order, without gaps and repetitions."""
    return tuple(dict.fromkeys(c for c in columns if c))


def says(role: str, content: str) -> Turn:
    return {"role": role, "content": content, "reasoning": None}


def ends_with_answer(turns: Sequence[Turn]) -> bool:
    return bool(turns) and turns[-1]["role"] == "assistant"
