"""What ``POST /v1/chat/completions`` takes. Nothing is ignored: a field is obeyed, neutral, or refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tuneloop.serve.api_error import ApiError, unsupported
from tuneloop.types import Message, Role

MAX_STOPS = 16

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "store": (False,),
}
"""Fields of OpenAI's API that are not supported yet, and the values that ask for nothing."""


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class ChatMessage(_Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[list[TextPart], BeforeValidator(_as_parts)]
    """A string, or text parts."""
    reasoning_content: str | None = None

    def to_message(self) -> Message:
        role: Role = "system" if self.role == "developer" else self.role
        return Message(role, "".join(part.text for part in self.content), self.reasoning_content)


class StreamOptions(_Strict):
    include_usage: bool = False


class ChatRequest(_Strict):
    """OpenAI's request body, and ``top_k``."""

    messages: list[ChatMessage] = Field(min_length=1)
    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Annotated[list[str] | None, BeforeValidator(_as_list), Field(max_length=MAX_STOPS)] = None
    user: Annotated[str, Field(max_length=256)] | None = None
    n: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    logit_bias: Any = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    functions: Any = None
    function_call: Any = None
    response_format: Any = None
    modalities: Any = None
    store: Any = None

    @property
    def stops(self) -> tuple[str, ...]:
        return tuple(s for s in self.stop or () if s)

    @property
    def answer_tokens(self) -> int | None:
        """The longest answer that is asked for; None when the request does not say."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    def refuse_unsupported(self) -> None:
        """Refuse what would otherwise be ignored.

        Raises:
            ApiError: 400, naming the field.
        """
        for name, neutral in NEUTRAL.items():
            value = getattr(self, name)
            if value is not None and not any((value == v and type(value) is not bool) or value is v for v in neutral):
                raise unsupported(name, f"{name} is not supported by this server (only {neutral[0]!r} is accepted)")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ApiError(400, "max_tokens and max_completion_tokens say the same thing twice", param="max_tokens")
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options needs stream: true", param="stream_options")
