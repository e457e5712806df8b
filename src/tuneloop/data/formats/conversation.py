"""Lists of turns: OpenAI messages, ShareGPT, dialogues."""

from __future__ import annotations

from tuneloop.data.columns import PAIR_LABELS, Names
from tuneloop.data.formats.nouns import Detected, Parsed, Part, Row, Turn, says, unique
from tuneloop.data.formats.turns import Spelling, conversation, spelling
from tuneloop.data.formats.values import label, listed, text

CONVERSATIONS = (
    "messages",
    "conversations",
    "conversation",
    "dialogue",
    "dialog",
    "turns",
    "utterances",
    "log",
    "对话",
)


def conversation_column(names: Names) -> tuple[str, Spelling] | None:
    """The column that holds a list of turns, and how they are written."""
    candidates = [names.prompt] if names.prompt else [names.find(name) for name in CONVERSATIONS]
    for column in candidates:
        if column and (how := spelling(names.list_sample(column))):
            return column, how
    return None


def find_messages(names: Names) -> Detected | None:
    found = conversation_column(names)
    if found is None or (names.response and names.prompt):
        return None
    column, how = found
    kind = "sharegpt" if how.sharegpt else "messages"
    part = list_part(names, column)
    if part is None or names.forced not in ("auto", "kto", "preference", kind):
        return None
    named = names.classes(*PAIR_LABELS)
    if named is None:
        return Detected(kind, part.words, part.used, lambda row: Parsed(part.turns(row)))
    words = f"{part.words}, class {named!r}"
    return Detected(kind, words, unique(*part.used, named), lambda row: Parsed(part.turns(row), label(row.get(named))))


def list_part(names: Names, column: str) -> Part | None:
    """The turns of one column, with the system prompt of another where there is one."""
    how = spelling(names.list_sample(column))
    if how is None:
        return None
    system = names.find("system")
    system = system if system != column and names.is_text(system) else None

    def turns(row: Row) -> list[Turn]:
        said = conversation(listed(row.get(column), column), how)
        if system and said[:1] and said[0]["role"] != "system" and (told := text(row.get(system))).strip():
            said.insert(0, says("system", told))
        return said

    kind = "ShareGPT conversations" if how.sharegpt else "OpenAI messages" if how.openai else "dialogues"
    return Part(f"{kind} in {column!r}", unique(column, system), turns)
