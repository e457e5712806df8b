"""The filters on the way in: a call is refused, or goes on without what must not reach the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tuneloop.chat import Chat
from tuneloop.serve.api_error import ApiError
from tuneloop.serve.asked import Asked
from tuneloop.serve.filters.calls import Blocked, Checks, filtered_json
from tuneloop.serve.filters.text import Hits, whole
from tuneloop.types import Message

REFUSAL = "the prompt contains what this server does not accept"


class PromptFilter:
    """Everything of a call that the model reads.

    Args:
        trusted: Gives the checks for what the application wrote: system messages, schemas, its own calls.
        foreign: Gives the checks for what comes from elsewhere: users, tools, prompts to continue.
    """

    def __init__(self, trusted: Checks, foreign: Checks) -> None:
        self._trusted, self._foreign = trusted, foreign
        self.hits = Hits()

    def asked(self, asked: Asked, chat: Chat) -> Asked:
        """The call as it may go on.

        Raises:
            ApiError: 400 ``content_filter``: a filter blocks it.
        """
        try:
            return replace(
                asked,
                messages=tuple(self._message(m) for m in asked.messages),
                prompts=tuple(self._prompt(p, chat) for p in asked.prompts),
                tools=asked.tools and filtered_json(asked.tools, self._trusted, self.hits),
            )
        except Blocked:
            names = ", ".join(sorted({name for name, action in self.hits if action == "block"}))
            param = "messages" if asked.messages else "prompt"
            raise ApiError(400, f"{REFUSAL}: {names}", param=param, code="content_filter") from None

    def _message(self, message: Message) -> Message:
        checks = self._foreign if message.role in ("user", "tool") else self._trusted
        calls = tuple(
            replace(c, name=self._text(c.name, checks), arguments=filtered_json(c.arguments, checks, self.hits))
            for c in message.tool_calls
        )
        return replace(
            message,
            content=self._text(message.content, checks),
            reasoning=None if message.reasoning is None else self._text(message.reasoning, checks),
            tool_calls=calls,
        )

    def _prompt(self, prompt: str | tuple[int, ...], chat: Chat) -> str | tuple[int, ...]:
        """A prompt of token ids is read as its text, and tokenised again only where that was changed."""
        if isinstance(prompt, str):
            return self._text(prompt, self._foreign)
        if any(i >= len(chat.tokenizer) for i in prompt):
            return prompt  # refused, by name, where prompts are made
        text = chat.tokenizer.decode(prompt, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        out = self._text(text, self._foreign)
        if out == text:
            return prompt
        return tuple(chat.tokenizer(out, add_special_tokens=False, verbose=False)["input_ids"])

    def _text(self, text: str, checks: Checks) -> str:
        out = whole(text, checks(), self.hits)
        if out is None:
            raise Blocked
        return out


def results(hits: Sequence[tuple[str, str]] | Hits) -> dict[str, dict[str, bool]]:
    """What was found, in the words of Azure OpenAI's ``content_filter_results``; {} when nothing was."""
    out: dict[str, dict[str, bool]] = {}
    for name, action in hits:
        filtered = action != "flag" or out.get(name, {}).get("filtered", False)
        out[name] = {"filtered": filtered, "detected": True}
    return out
