"""The turns of one conversation, in whatever words its exporter used for who speaks and what is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneloop.data.formats.calls import call_of_text, calls_json
from tuneloop.data.formats.media import media_json, media_part
from tuneloop.data.formats.nouns import Turn, Unusable
from tuneloop.data.formats.values import text, whole

CALL = "call"
"""The role of a turn that is nothing but a function call (ShareGPT's ``function_call``)."""
ROLES: Mapping[str, str] = {
    **dict.fromkeys(["system", "developer", "系统"], "system"),
    **dict.fromkeys(
        ["user", "human", "usr", "customer", "client", "patient", "visitor", "用户", "客户", "病人", "患者"], "user"
    ),
    **dict.fromkeys(["assistant", "gpt", "chatgpt", "bot", "model", "ai", "agent", "sys", "doctor"], "assistant"),
    **dict.fromkeys(["助手", "助理", "客服", "机器人", "医生"], "assistant"),
    **dict.fromkeys(["tool", "observation", "function", "tool_response", "function_response", "工具"], "tool"),
    **dict.fromkeys(["function_call", "tool_call"], CALL),
}
WHO = ("role", "from", "speaker", "sender", "角色")
WHAT = ("content", "value", "text", "utterance", "message", "内容")
_OPENAI = frozenset(["system", "developer", "user", "assistant", "tool", "function"])
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a file writes its turns: ``{who: role, what: text}``, or ``{role: text, ...}`` where ``who`` is empty.

    In task-oriented dialogues (CrossWOZ, MultiWOZ) ``sys`` answers; beside another assistant it is the system prompt.
    """

    who: str
    what: str
    roles: Mapping[str, str]

    openai: bool = False
    """Whether roles and keys are those of OpenAI's messages."""

    @property
    def sharegpt(self) -> bool:
        return (self.who, self.what) == ("from", "value")


def spelling(turns: Sequence[Any]) -> Spelling | None:
    """How these turns are written, or None: they are not turns."""
    keys = {key: value for turn in turns if isinstance(turn, dict) for key, value in turn.items()}
    who = next((w for w in WHO if isinstance(keys.get(w), str)), "")
    what = next((w for w in WHAT if w in keys and w != who), "")
    if who and what:
        spoken = {str(turn.get(who)).strip().lower() for turn in turns if isinstance(turn, dict)}
        if not spoken & ROLES.keys():
            return None
        answers = {role for role in spoken if ROLES.get(role) == "assistant"}
        openai = (who, what) == ("role", "content") and spoken <= _OPENAI
        return Spelling(who, what, {**ROLES, "sys": "system"} if answers - {"sys"} else ROLES, openai)
    if keys and keys.keys() & {"human", "user", "用户"} and keys.keys() & {"assistant", "gpt", "bot", "助手"}:
        return Spelling("", "", ROLES)
    return None


def conversation(turns: Sequence[Any], how: Spelling) -> list[Turn]:
    """All turns; function calls that stand alone join the assistant turn they belong to.

    Raises:
        Unusable: A turn has another shape, an unknown role, or something that no conversation can hold.
    """
    out: list[Turn] = []
    for raw in turns:
        if how.who:
            _append(out, _turn(raw, how))
        elif isinstance(raw, dict):
            for who, said in raw.items():
                if role := how.roles.get(who.strip().lower()):
                    _append(out, {"role": role, "content": text(said), "reasoning": None})
        else:
            raise Unusable("wrong shape: a turn is not an object")
    return out


def _append(out: list[Turn], turn: Turn) -> None:
    if turn["role"] != CALL:
        out.append(turn)
        return
    calls = call_of_text(turn["content"] or "")
    last = out[-1] if out and out[-1]["role"] == "assistant" else None
    if last is None:
        out.append({**turn, "role": "assistant", "content": "", "tool_calls": calls_json(calls)})
    else:
        last["tool_calls"] = calls_json(calls, after=last.get("tool_calls"))


def _turn(raw: Any, how: Spelling) -> Turn:
    if not isinstance(raw, dict) or not isinstance(raw.get(how.who), str):
        raise Unusable(f"wrong shape: a turn has {how.who!r} and {how.what!r}")
    role = how.roles.get(raw[how.who].strip().lower())
    if role is None:
        raise Unusable(f"unknown role: {raw[how.who][:40]!r}")
    content = raw.get(how.what)
    turn: Turn = {"role": role, "content": None, "reasoning": None}
    if isinstance(content, list):
        turn["content"], media = _parts(content)
        if media:
            turn["media"] = media_json(media)
    else:
        turn["content"] = text(content)
    if len(raw) > 2:
        _extras(raw, turn)
    return turn


def _extras(raw: Mapping[str, Any], turn: Turn) -> None:
    """Reasoning and function calls beside the content."""
    thought = raw.get("reasoning_content") or raw.get("reasoning") or raw.get("thinking")
    if isinstance(thought, str):
        turn["reasoning"] = whole(thought)
    if turn["role"] != "assistant":
        return
    if raw.get("weight") == 0 or raw.get("loss") is False:
        raise Unusable("unsupported: an assistant turn that is not to be learned (weight 0)")
    calls = raw.get("tool_calls") or ([raw["function_call"]] if raw.get("function_call") else None)
    if calls:
        turn["tool_calls"] = calls_json(calls)


def _parts(content: Sequence[Any]) -> tuple[str, list[dict[str, str]]]:
    """The text parts of a list of content parts, joined by line breaks, and its images and sounds in order."""
    said, media = [], []
    for part in content:
        if isinstance(part, str):
            said.append(whole(part))
        elif isinstance(part, dict) and part.get("type", "text") in _TEXT_PARTS:
            said.append(text(part.get("text") if part.get("text") is not None else part.get("refusal")))
        elif isinstance(part, dict) and (found := media_part(part)):
            media.append(found)
        else:
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise Unusable(f"unsupported: a content part of type {str(kind)[:40]!r}")
    return "\n".join(said), media
