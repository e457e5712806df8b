"""Images and sounds inside a conversation: parts of a turn, or columns that a turn points to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tuneloop.data.formats.nouns import Row, Turn, Unusable
from tuneloop.data.formats.values import json_text
from tuneloop.data.frame import REJECTED

COLUMNS: Mapping[str, str] = {"images": "image", "image": "image", "audios": "audio", "audio": "audio"}
"""Column -> what it holds, as LLaMA-Factory and ms-swift name them."""


def media_part(part: Mapping[str, Any]) -> dict[str, str] | None:
    """An OpenAI or Qwen content part as {kind, source}, or None: it is something else.

    Raises:
        Unusable: It names no source.
    """
    name = str(part.get("type"))
    kind = "image" if "image" in name else "audio" if "audio" in name else None
    if kind is None:
        return None
    return {"kind": kind, "source": _source(part.get(name, part.get(f"{kind}_url", part.get(kind))), kind)}


def _source(value: Any, kind: str) -> str:
    if isinstance(value, Mapping):
        if isinstance(data := value.get("data"), str):
            return f"data:{kind}/{value.get('format') or 'wav'};base64,{data}"
        value = value.get("url") or value.get("path")
    if not isinstance(value, str) or not value:
        raise Unusable(f"unsupported: an {kind} without a path or a URL")
    return value


def media_json(media: Sequence[Mapping[str, str]]) -> str:
    return json_text(list(media))


def attach(turns: list[Turn], row: Row, columns: Mapping[str, str]) -> None:
    """Give the media of a row's columns to the turns that point to them; without pointers, to the first user turn.

    A pointer is ``<image>`` or ``<audio>`` in a text, as LLaMA-Factory writes it. Its place in the text is not kept:
    media stand before the text of their turn.

    Args:
        turns: Changed in place: pointers (``<image>``) are taken out of their texts.
        row: The raw row.
        columns: Column -> kind.

    Raises:
        Unusable: There are more or fewer pointers than media.
    """
    waiting: dict[str, list[dict[str, str]]] = {"image": [], "audio": []}
    for column, kind in columns.items():
        value = row.get(column)
        items = value if isinstance(value, list) else [value] if value else []
        waiting[kind] += [{"kind": kind, "source": _source(item, kind)} for item in items]
    for kind, media in waiting.items():
        pointers = sum((turn["content"] or "").count(f"<{kind}>") for turn in turns if turn["role"] != REJECTED)
        if media and pointers not in (0, len(media)):
            raise Unusable(f"wrong shape: {pointers} times <{kind}> for {len(media)} in the column")
    present = "|".join(kind for kind, media in waiting.items() if media)
    pointer = re.compile(rf"<({present})>\n?")
    for turn in turns if present else ():
        content = turn["content"] or ""
        found = [waiting[kind].pop(0) for kind in pointer.findall(content) if waiting[kind]]
        if found:
            turn["content"], turn["media"] = pointer.sub("", content), media_json(found)
    rest = [medium for media in waiting.values() for medium in media]
    first = next((turn for turn in turns if turn["role"] == "user"), None)
    if rest and first is None:
        raise Unusable("wrong shape: there is no user turn for the media")
    if rest and first is not None:
        first["media"] = media_json(rest)
