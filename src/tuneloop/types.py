"""The nouns, in flow order. All are frozen; text, tokens and numbers stay apart.

Message, Record, Dropped      text      (data)
Example                       tokens    (chat)        Batch lives in train: it holds tensors
Request, TokenEvent, Response tokens    (engines)
Score, Interval, Verdict      numbers   (evaluate, compare)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args

_T = TypeVar("_T")

Role = Literal["system", "user", "assistant", "tool"]
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
FinishReason = Literal["stop", "length", "cancelled", "error"]
Decision = Literal["pass", "fail", "undecided"]


def packed(kind: type[_T]) -> type[_T]:
    """Have a data class pickled as the values of its fields, in order. Left to itself, a frozen one with slots asks for
    its fields anew at every object, which takes twice as long; requests and tokens go between processes all the time."""
    names = tuple(f.name for f in fields(kind))  # type: ignore[arg-type]  # no type says "a data class"

    def reduce(self: _T) -> tuple[type[_T], tuple[Any, ...]]:
        return kind, tuple([getattr(self, name) for name in names])

    kind.__reduce__ = reduce  # type: ignore[assignment, method-assign]  # before any object of it is made
    return kind


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function the assistant calls; ``arguments`` is a JSON object as text, as in OpenAI's messages."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Media:
    """An image or a sound inside a message; ``source`` is a path or a ``data:`` URL."""

    kind: Literal["image", "audio"]
    source: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. ``reasoning`` is what a reasoning model thinks before ``content``."""

    role: Role
    content: str
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    media: tuple[Media, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Only what is set, so that plain messages stay plain."""
        row: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.reasoning is not None:
            row["reasoning"] = self.reasoning
        if self.tool_calls:
            row["tool_calls"] = [{"name": c.name, "arguments": c.arguments} for c in self.tool_calls]
        if self.media:
            row["media"] = [{"kind": m.kind, "source": m.source} for m in self.media]
        return row

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Message:
        return cls(
            row["role"],
            row["content"],
            row.get("reasoning"),
            tuple(ToolCall(c["name"], c["arguments"]) for c in row.get("tool_calls") or ()),
            tuple(Media(m["kind"], m["source"]) for m in row.get("media") or ()),
        )


@dataclass(frozen=True, slots=True)
class Record:
    """One conversation that survived cleaning.

    ``id`` is a stable hash of content and origin; ``origin`` is ``file:line`` of the first physical line;
    ``parents`` names the records a derived row was made from; ``label`` is the class for classification tasks.
    ``rejected`` is the worse answer of a preference pair (the better one ends ``messages``); ``desirable`` is the verdict
    of a KTO row; ``tools`` is a JSON array of function schemas; ``fields`` keeps columns that the project asked for.
    """

    id: str
    messages: tuple[Message, ...]
    label: str | None = None
    origin: str = ""
    parents: tuple[str, ...] = ()
    rejected: tuple[Message, ...] = ()
    desirable: bool | None = None
    tools: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def answer(self) -> str:
        """The reference: content of the last assistant message ('' when there is none)."""
        return next((m.content for m in reversed(self.messages) if m.role == "assistant"), "")

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the last assistant message."""
        last = max((i for i, m in enumerate(self.messages) if m.role == "assistant"), default=len(self.messages))
        return self.messages[:last]

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {
            "id": self.id,
            "messages": [m.to_json() for m in self.messages],
            "label": self.label,
            "origin": self.origin,
            "parents": list(self.parents),
        }
        if self.rejected:
            row["rejected"] = [m.to_json() for m in self.rejected]
        if self.desirable is not None:
            row["desirable"] = self.desirable
        if self.tools is not None:
            row["tools"] = self.tools
        if self.fields:
            row["fields"] = dict(self.fields)
        return row

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Record:
        return cls(
            id=row["id"],
            messages=tuple(map(Message.from_json, row["messages"])),
            label=row.get("label"),
            origin=row.get("origin") or "",
            parents=tuple(row.get("parents") or ()),
            rejected=tuple(map(Message.from_json, row.get("rejected") or ())),
            desirable=row.get("desirable"),
            tools=row.get("tools"),
            fields=dict(row.get("fields") or {}),
        )


def record_id(content: str, origin: str) -> str:
    """16 hex digits of SHA-256 over content and origin: stable between runs and machines."""
    return hashlib.sha256(f"{origin}\x00{content}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that was removed: which step removed it, and why."""

    id: str
    origin: str
    step: str
    reason: str
    raw: str


@dataclass(frozen=True, slots=True)
class Example:
    """A tokenised training row.

    ``input_ids`` has T tokens; ``loss_mask`` has T flags, true where the token is *predicted* and counted in the
    loss (never position 0); ``weight`` multiplies the loss of each of its tokens.
    """

    id: str
    input_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    weight: float = 1.0

    @property
    def label_tokens(self) -> int:
        return sum(self.loss_mask)


@packed
@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must look like: ``before``, then JSON that the schema allows, then ``after``.

    ``schema`` is a JSON schema as text; ``{}`` allows any JSON object.
    """

    schema: str
    before: str = ""
    after: str = ""


@packed
@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. Temperature 0 is greedy; ``top_k`` 0 means no limit.

    Penalties are OpenAI's, over the tokens of the answer so far: a token that occurs c > 0 times loses
    ``presence_penalty + c * frequency_penalty`` logits. ``logit_bias`` adds to the logits of the tokens it names.
    ``logprobs`` asks for the probabilities of the chosen tokens: without it an engine may leave them out, and the CPU
    engines are a tenth faster. ``top_logprobs`` asks for that many alternatives beside each token as well.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: bool = True
    top_logprobs: int = 0
    grammar: Grammar | None = None


@packed
@dataclass(frozen=True, slots=True)
class Context:
    """Every fact that later decisions need to know about a request. Never holds the prompt."""

    model: str = ""
    version: str = ""
    arm: str = ""
    precision: str = ""
    user: str = ""
    conversation: str = ""
    traceparent: str = ""


@packed
@dataclass(frozen=True, slots=True)
class Request:
    """Token ids to continue. ``stop_ids`` end the answer and are not part of it."""

    id: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling = Sampling()
    stop_ids: tuple[int, ...] = ()
    context: Context = Context()


@packed
@dataclass(frozen=True, slots=True)
class TokenEvent:
    """New tokens of one request. ``finish`` is set on the last event, ``error`` only when it is ``error``.

    ``logprobs`` are natural logarithms of the chosen tokens' probabilities (same length as ``token_ids``, or empty
    where the engine does not report them). ``top`` holds, for each token, the most probable tokens with their logarithms,
    best first; it is empty where nobody asked.
    """

    request_id: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    finish: FinishReason | None = None
    error: str | None = None
    top: tuple[tuple[tuple[int, float], ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """A finished request. Times are in seconds since submission."""

    request_id: str
    token_ids: tuple[int, ...]
    finish: FinishReason
    first_token_s: float
    total_s: float
    logprobs: tuple[float, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """One number about one record."""

    record_id: str
    metric: str
    value: float


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its confidence interval over ``n`` items; ``method`` says how it was computed."""

    value: float
    low: float
    high: float
    n: int
    method: str
    confidence: float = 0.95

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of a gate. ``estimate`` is candidate minus baseline, in the metric's own units."""

    decision: Decision
    metric: str
    estimate: Interval
    reason: str
    p_value: float | None = None
    margin: float = 0.0
    detail: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
