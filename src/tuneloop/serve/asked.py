"""What every door (chat, completions, generate, gRPC, batches) asks for, in one form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuneloop.serve.keys import Key
from tuneloop.types import Grammar, Message

CONVERSATION_HEADER = "x-conversation-id"


@dataclass(frozen=True, slots=True)
class ToolUse:
    """How functions may be used. ``schemas`` of the arguments by name; one of ``forced`` must be called, where any is
    named; arguments of ``strict`` ones are always valid; ``parallel`` allows several calls in one answer."""

    schemas: Mapping[str, Mapping[str, Any]]
    forced: tuple[str, ...] = ()
    strict: frozenset[str] = frozenset()
    parallel: bool = True


@dataclass(frozen=True, slots=True)
class Asked:
    """One call. ``None`` means that the caller does not say.

    Either ``messages`` is given, which go through the chat template, or ``prompts``: texts or token ids to continue as
    they are, each answered ``n`` times.
    """

    messages: tuple[Message, ...] = ()
    prompts: tuple[str | tuple[int, ...], ...] = ()
    tools: str | None = None
    use: ToolUse | None = None
    model: str | None = None
    n: int = 1
    stops: tuple[str, ...] = ()
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: bool = False
    top_logprobs: int = 0
    grammar: Grammar | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. ``request_id`` is in the answer, the headers and the log."""

    request_id: str
    key: Key
    user: str = ""
    conversation: str = ""
    traceparent: str = ""
    """W3C's header for whom the engine asks in turn; empty where the caller sends none."""
    background: bool = False
    """A batch asks: it takes free places only, and nobody waits because of it."""
