"""What the routes take. Nothing is ignored: a field is obeyed, neutral, or refused by name."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from tuneloop.serve.api_error import ApiError, unsupported
from tuneloop.serve.asked import Asked
from tuneloop.serve.chat_messages import ChatMessage, Strict, to_messages
from tuneloop.serve.tool_choice import ResponseFormat, ToolChoice, Tools, grammar_of, tools_of
from tuneloop.types import Message

MAX_STOPS = 16

MAX_CHOICES = 16
MAX_TOP_LOGPROBS = 20
MAX_BIASED_TOKENS = 1024
HALF = re.compile("[\ud800-\udfff]")
"""Half a character (a lone surrogate): JSON can spell it, and no tokenizer can read it."""
MAX_TOP_K = 2**31 - 1
"""Engines keep it in 32 bits."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "return_token_ids": (False,),
}
"""Fields of OpenAI's chat API, and of vLLM's, that are not supported, and the values that ask for nothing."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _has_half_a_character(value: Any) -> bool:
    if isinstance(value, str):
        return HALF.search(value) is not None
    if isinstance(value, dict):
        return any(map(_has_half_a_character, value)) or any(map(_has_half_a_character, value.values()))
    return isinstance(value, list) and any(map(_has_half_a_character, value))


Stops = Annotated[list[str], Field(max_length=MAX_STOPS)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Label = Annotated[str, Field(max_length=512)]
Metadata = Annotated[dict[Annotated[str, Field(max_length=64)], Label], Field(max_length=16)]
Hint = Annotated[str, Field(max_length=256)]


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class Drawn(Strict):
    """How answers are drawn: the fields that every route has, under OpenAI's names, and ``top_k``."""

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_TOP_K)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63 - MAX_CHOICES)] | None = None
    stop: Annotated[Stops | None, BeforeValidator(_as_list, json_schema_input_type=str | Stops | None)] = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[dict[str, Bias], Field(max_length=MAX_BIASED_TOKENS)] | None = None
    user: Hint | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _whole_characters(cls, value: Any) -> Any:
        if _has_half_a_character(value):
            raise ValueError("the text holds half a character")
        return value

    @property
    def usage_wanted(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def drawn(self) -> dict[str, Any]:
        """The fields of ``Asked`` that say how answers are drawn.

        Raises:
            ApiError: 400, naming the field.
        """
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options needs stream: true", param="stream_options")
        for token in self.logit_bias or {}:
            if not (token.isascii() and token.isdecimal() and len(token) < 10):
                raise ApiError(400, f"{token[:20]!r} is no token id", param="logit_bias", code="invalid_value")
        return {
            "model": self.model,
            "n": self.n or 1,
            "stops": tuple(s for s in self.stop or () if s),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "seed": self.seed,
            "presence_penalty": self.presence_penalty or 0.0,
            "frequency_penalty": self.frequency_penalty or 0.0,
            "logit_bias": tuple((int(t), value) for t, value in (self.logit_bias or {}).items()),
        }

    def refuse(self, neutral: dict[str, tuple[Any, ...]]) -> None:
        """Refuse what would otherwise be ignored.

        Raises:
            ApiError: 400, naming the field.
        """
        for name, values in neutral.items():
            value = getattr(self, name)
            if value is not None and not any((value == v and type(value) is not bool) or value is v for v in values):
                raise unsupported(name, f"{name} is not supported by this server (only {values[0]!r} is accepted)")


class ChatRequest(Drawn):
    """Body of ``POST /v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Any = None
    function_call: Any = None
    response_format: ResponseFormat | None = None
    modalities: Any = None
    store: Any = None
    service_tier: Any = None
    metadata: Metadata | None = None
    safety_identifier: Hint | None = None
    prompt_cache_key: Hint | None = None
    """This and the two before it have no effect: none of them changes an answer."""
    return_token_ids: Any = None

    def asked(self) -> Asked:
        """The call.

        Raises:
            ApiError: 400, naming the field.
        """
        self.refuse(NEUTRAL)
        if len({self.max_tokens, self.max_completion_tokens} - {None}) > 1:
            raise ApiError(400, "max_tokens and max_completion_tokens contradict each other", param="max_tokens")
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
        drawn = self.drawn()
        if self.max_completion_tokens is not None:
            drawn["max_tokens"] = self.max_completion_tokens
        tools, use = tools_of(self.tools, self.tool_choice, self.parallel_tool_calls)
        return Asked(
            messages=to_messages(self.messages),
            tools=tools,
            use=use,
            grammar=grammar_of(self.response_format),
            logprobs=bool(self.logprobs),
            top_logprobs=self.top_logprobs or 0,
            **drawn,
        )


class CompletionRequest(Drawn):
    """Body of ``POST /v1/completions``: text to continue as it stands, without a template."""

    prompt: Annotated[
        str | list[int] | list[str] | list[list[int]],
        Field(description="A text, token ids, or several of either; each is answered n times."),
    ]
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: Any = None
    suffix: Any = None
    best_of: Any = None
    return_token_ids: Any = None

    def asked(self) -> Asked:
        """The call.

        Raises:
            ApiError: 400, naming the field.
        """
        self.refuse({"echo": (False,), "suffix": ("",), "best_of": (self.n or 1,), "return_token_ids": (False,)})
        prompts = _prompts(self.prompt)
        if not prompts or not all(prompts):
            raise ApiError(400, "the prompt is empty", param="prompt", code="invalid_value")
        if len(prompts) > MAX_CHOICES:
            raise ApiError(400, f"at most {MAX_CHOICES} prompts in one call", param="prompt", code="invalid_value")
        if any(t < 0 for p in prompts if isinstance(p, tuple) for t in p):
            raise ApiError(400, "a token id is negative", param="prompt", code="invalid_value")
        logprobs = self.logprobs is not None
        return Asked(prompts=prompts, logprobs=logprobs, top_logprobs=self.logprobs or 0, **self.drawn())


class GenerateRequest(Drawn):
    """Body of ``POST /generate``: one question, one answer."""

    prompt: Annotated[str, Field(min_length=1)]
    system: str | None = None
    """System message; default: ``serve.system``."""
    raw: bool = False
    """Continue the prompt as it stands, instead of answering it as a user's message."""
    n: Annotated[int, Field(ge=1, le=1)] | None = None

    def asked(self, system: str | None) -> Asked:
        """The call.

        Raises:
            ApiError: 400, naming the field.
        """
        if self.raw:
            if self.system is not None:
                raise ApiError(400, "a raw prompt has no system message", param="system", code="invalid_value")
            return Asked(prompts=(self.prompt,), **self.drawn())
        said = system if self.system is None else self.system
        start = (Message("system", said),) if said else ()
        return Asked(messages=(*start, Message("user", self.prompt)), **self.drawn())


def _prompts(prompt: str | list[int] | list[str] | list[list[int]]) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(prompt, str):
        return (prompt,)
    if prompt and isinstance(prompt[0], int):
        return (tuple(prompt),)
    return tuple(p if isinstance(p, str) else tuple(p) for p in prompt)  # type: ignore[arg-type]
