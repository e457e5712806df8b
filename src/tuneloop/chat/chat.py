"""The one template object: whatever is trained, evaluated or served gets its token ids here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

from tuneloop.chat import templates
from tuneloop.chat import tools as functions
from tuneloop.chat.calls import PROBE, CallFormat
from tuneloop.chat.examples import encode
from tuneloop.chat.hidden import MARK, Hidden
from tuneloop.chat.reasoning import CLOSE, OPEN, answer_text, separate, split_reasoning
from tuneloop.chat.stream import Detokenizer, Vocabulary
from tuneloop.errors import DataError, ModelError
from tuneloop.types import Dropped, Example, Message, Record

SHORT_CHARACTERS = 2_000
"""Up to this length a text goes straight to the Rust tokenizer. The tokenizer's own call hands even one text to a thread
pool and gives up the interpreter meanwhile; in a gateway, getting it back takes longer than the work. Longer texts go
through it, so that other threads run meanwhile."""
_PROBE = "Zq7probeZq7"
_EMPTY_BLOCK = re.compile(rf"^{OPEN}\s*{CLOSE}\s*")


class Chat:
    """Messages to token ids and back, for one tokenizer and one template.

    * There is exactly one beginning-of-text token where the model has one: never the template's and the tokenizer's.
    * Text inside a message that looks like a control token (``<|im_end|>``) is tokenised as the plain text it is, so
      nobody can forge a turn.
    * Reasoning of earlier turns is not part of a prompt, as DeepSeek's templates and API have it.
    * Functions and their calls are written by the template. Where it knows nothing of them, the schemas go into the
      system prompt and calls and results into the messages, as text (see ``chat.tools``): ``knows_tools`` says which.

    Args:
        tokenizer: A Hugging Face fast tokenizer.
        template: Jinja text or the name of a built-in, instead of the tokenizer's own. It is also put on the
            tokenizer, so that a bundle saved with it serves what was trained.

    Raises:
        ModelError: There is no template, or neither it nor the tokenizer says how an answer ends.
    """

    def __init__(self, tokenizer: Any, *, template: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.template = templates.choose(tokenizer, template)
        if template is not None:
            tokenizer.chat_template = self.template
        self.template_hash: str = hashlib.sha256(self.template.encode()).hexdigest()
        self._vocabulary = Vocabulary(tokenizer)
        self._added = {str(t): i for i, t in tokenizer.added_tokens_decoder.items()}
        self._bos = self._implied_bos()
        self._end_text = ""
        self.end_ids: tuple[int, ...] = self._find_end()
        """What closes every answer; nearly always one token."""
        eos = tokenizer.eos_token_id
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys([self.end_ids[-1], *([] if eos is None else [eos])]))
        """Tokens that end an answer: end of turn, end of text."""
        self._control = self._control_pattern()

    @property
    def knows_tools(self) -> bool:
        """Whether the template itself writes function schemas, calls and results."""
        return self._dialect is not None

    @cached_property
    def _dialect(self) -> functions.Dialect | None:
        return functions.find_dialect(lambda plain, schemas: self._apply(plain, schemas, generation=False))

    @cached_property
    def call_format(self) -> CallFormat | None:
        """How this model writes calls; None where its template's way is not known here."""
        message = Message("assistant", "", tool_calls=(PROBE,))
        try:
            return CallFormat.of(functions.call_text(message) if self._dialect is None else self._calls_text(message))
        except DataError:
            return None

    def render(self, messages: Sequence[Message], *, generation: bool, tools: str | None = None) -> str:
        """The prompt as text; with ``generation`` it ends where the assistant begins to write.

        Args:
            messages: The conversation.
            generation: End with the beginning of an answer.
            tools: JSON array of function schemas that may be called.

        Raises:
            DataError: The template refuses these messages (roles that do not alternate, no system role ...).
        """
        import jinja2

        if not messages:
            raise DataError("there is no message before the answer", hint="begin with system or user")
        schemas = None
        if tools or any(m.tool_calls or m.role == "tool" for m in messages):
            if self._dialect is None:
                messages = functions.written_out(messages, tools)
            elif tools:
                schemas = functions.parse_tools(tools) or None
        calls = self._dialect if any(m.tool_calls for m in messages) else None
        plain = calls.plain(messages) if calls else _plain(messages)
        try:
            return self._apply(plain, schemas, generation=generation)
        except jinja2.TemplateError as error:
            roles = ", ".join(m.role for m in messages) or "none"
            raise DataError(
                f"the model's chat template refuses these messages ({roles}): {error}",
                hint="use system (optional), then user and assistant in turn",
            ) from None

    def _apply(self, plain: functions.Plain, schemas: list[Any] | None, *, generation: bool) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                plain, tools=schemas, tokenize=False, add_generation_prompt=generation, chat_template=self.template
            )
        )

    def prompt_ids(self, messages: Sequence[Message], tools: str | None = None) -> tuple[int, ...]:
        """Exactly what is served: template and generation prompt, as token ids."""
        return self.prompt(messages, tools)[1]

    def prompt(self, messages: Sequence[Message], tools: str | None = None) -> tuple[str, tuple[int, ...]]:
        """What is served, as text (``render``) and as token ids (``prompt_ids``), rendered once where that is enough."""
        hidden = Hidden(self._control)
        masked, written = hidden.messages(messages), hidden.json(tools)
        text = self.render(masked, generation=True, tools=written)
        ids = self._ids(text, hidden.words)
        while len(ids) > 1 and ids[0] == ids[1] == self.tokenizer.bos_token_id:
            ids = ids[1:]
        if hidden.words or written != tools:
            text = self.render(messages, generation=True, tools=tools)
        return text, ids if ids[: len(self._bos)] == self._bos else self._bos + ids

    def text_ids(self, text: str) -> tuple[int, ...]:
        """A document for continued pretraining: the beginning-of-text token where the tokenizer itself puts one in
        front, the text, the tokenizer's end-of-text token where it has one. Control words inside the text stay text."""
        hidden = Hidden(self._control)
        eos = self.tokenizer.eos_token_id
        return self._bos + self._ids(hidden.text(text), hidden.words) + (() if eos is None else (int(eos),))

    def answer_ids(self, message: Message, prompt: str) -> tuple[int, ...]:
        """What the model must produce after ``prompt``: reasoning, content, calls and the end-of-turn token.

        It is tokenised apart from the prompt, because at serving time the prompt's tokens are already fixed.

        Raises:
            DataError: The template cannot write the calls.
        """
        hidden = Hidden(self._control)
        (masked,) = hidden.messages([message])
        return self._ids(self._answer_text(masked, prompt), hidden.words) + self.end_ids

    def _answer_text(self, message: Message, prompt: str) -> str:
        if message.tool_calls and self._dialect is None:
            message = replace(message, content=functions.call_text(message), tool_calls=())
        said = answer_text(message, prompt)
        return said + self._calls_text(message) if message.tool_calls else said

    def _calls_text(self, message: Message) -> str:
        """What the template writes for the calls, between content and end of turn, in a conversation of its own."""
        ask, content = [Message("user", "a")], _PROBE if separate(message).content else ""
        shown = self.render([*ask, replace(message, content=content, reasoning=None)], generation=False)
        before = self.render(ask, generation=True)
        if content:
            beside, rest = _PROBE in shown, shown.rpartition(_PROBE)[2]
        else:  # a prompt that opens the reasoning is not repeated in a conversation; an empty block may be
            before = before if shown.startswith(before) else before.rstrip().removesuffix(OPEN)
            beside, rest = shown.startswith(before), _EMPTY_BLOCK.sub("", shown.removeprefix(before))
        text, end, _ = rest.rpartition(self._end_text or "\0")
        if not beside or not end:
            what = "leaves out what is said beside a call" if end else "does not end a call as it ends an answer"
            raise DataError(
                f"the model's chat template {what}",
                hint="write calls as text with a template that knows no functions: model.chat_template=chatml",
            )
        return text

    def examples(
        self,
        record: Record,
        *,
        max_length: int | None = None,
        turns: Literal["all", "last"] = "all",
        dropped: list[Dropped] | None = None,
    ) -> list[Example]:
        """The training rows of a record: one for a conversation whose prompts grow token by token, else one a turn.

        Args:
            record: A conversation.
            max_length: The most tokens a row may have; a longer one is dropped, never cut.
            turns: Learn every assistant message, or the last one only.
            dropped: Receives what could not be kept, with the reason. Without it that is an error.

        Raises:
            DataError: Something could not be kept and ``dropped`` was not given.
        """
        examples, lost = encode(self, record, max_length, turns)
        if dropped is not None:
            dropped += lost
        elif lost:
            raise DataError(
                lost[0].reason, where=f"{record.origin} record {record.id}".strip(), hint="raise max_length"
            )
        return examples

    def decode(self, ids: Iterable[int]) -> str:
        """The text of an answer, special tokens left out."""
        stream = self.stream()
        return stream.feed(ids) + stream.finish()

    def stream(self, *, calls: bool = False) -> Detokenizer:
        """The text of an answer while it arrives; with ``calls``, control tokens that mark calls are part of it."""
        markers = self.call_format.syntax.markers if calls and self.call_format else ()
        return Detokenizer(self._vocabulary, frozenset(self._added[m] for m in markers if m in self._added))

    def token_bytes(self, token_id: int) -> bytes:
        """What one token stands for; half a character is half a character."""
        return self._vocabulary.bytes_of(token_id)

    def split_reasoning(self, text: str, prompt: str) -> tuple[str | None, str]:
        """Reasoning (None when there is none) and answer of what was generated after ``prompt``."""
        return split_reasoning(text, prompt)

    def _tokenize(self, text: str) -> tuple[int, ...]:
        if not text:
            return ()
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None and len(text) <= SHORT_CHARACTERS and _plain_backend(backend):
            return tuple(backend.encode(text, add_special_tokens=False).ids)
        return tuple(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _implied_bos(self) -> tuple[int, ...]:
        """The beginning-of-text token, where the tokenizer puts one in front by itself."""
        ids, bos = self.tokenizer("a")["input_ids"], self.tokenizer.bos_token_id
        return (bos,) if bos is not None and ids[:1] == [bos] else ()

    def _find_end(self) -> tuple[int, ...]:
        """What the template writes after an answer, up to its first control token; else the end-of-text token."""
        shown = self.render([Message("user", "a"), Message("assistant", _PROBE)], generation=False)
        after = shown.rpartition(_PROBE)[2]
        ids = self._tokenize(after)
        control = {i: word for word, i in self._added.items()}
        first = next((i for i, token in enumerate(ids) if token in control), None)
        if first is not None:
            word = control[ids[first]]
            self._end_text = after.partition(word)[0] + word
            return ids[: first + 1]
        if self.tokenizer.eos_token_id is None:
            raise ModelError(
                "neither the chat template nor the tokenizer says which token ends an answer",
                where=str(self.tokenizer.name_or_path),
                hint="set eos_token in tokenizer_config.json",
            )
        return (int(self.tokenizer.eos_token_id),)

    def _control_pattern(self) -> re.Pattern[str] | None:
        """Matches the strings that would be read as control tokens: the special ones and the template's markers."""
        probe = [Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
        shown = self.render(probe, generation=True)
        special = self._vocabulary.special
        words = [w for w, i in self._added.items() if (i in special or w in shown) and w not in (OPEN, CLOSE)]
        words = [w for w in words if len(w.strip()) > 1]
        return re.compile("|".join(map(re.escape, [*sorted(words, key=len, reverse=True), MARK]))) if words else None

    def _ids(self, text: str, masked: Sequence[str]) -> tuple[int, ...]:
        """Tokenise; a masked word goes in as two pieces, so that it cannot be read as its control token."""
        if not masked:
            return self._tokenize(text)
        pieces = re.split(f"{MARK}(\\d+){MARK}", text)
        out: tuple[int, ...] = ()
        for before, index in zip(pieces[::2], [*pieces[1::2], None], strict=True):
            word = "" if index is None else masked[int(index)]
            out += self._tokenize(before + word[:1])
            out += self._tokenize(word[1:])
        return out


def _plain_backend(backend: Any) -> bool:
    """Whether ``encode`` does what the tokenizer's own call does: nothing is cut, padded or split for it."""
    return backend.truncation is None and backend.padding is None and not backend.encode_special_tokens


def _plain(messages: Sequence[Message]) -> functions.Plain:
    return [{"role": m.role, "content": separate(m).content} for m in messages]
