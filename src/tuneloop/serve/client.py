"""A conversation in the terminal: the engine in this process, answers as they come, pipes welcome."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from tuneloop.chat import Chat
from tuneloop.engines import Engine, EngineConfig, create
from tuneloop.errors import DataError
from tuneloop.models import load_tokenizer
from tuneloop.progress import log
from tuneloop.serve.answer import Answer
from tuneloop.types import Message, Request, Sampling

if TYPE_CHECKING:
    from tuneloop.models import Bundle

POLL_S = 0.5
LEAVE = frozenset({"/exit", "/quit"})


def converse(
    config: EngineConfig,
    bundle: Bundle,
    *,
    system: str | None = None,
    max_tokens: int = 512,
    temperature: float = 0.0,
    source: TextIO | None = None,
    sink: TextIO | None = None,
) -> None:
    """See ``tuneloop.serve.chat``. ``/new`` forgets the conversation, ``/exit`` or end of input leaves."""
    source, sink = source or sys.stdin, sink or sys.stdout
    chat = Chat(load_tokenizer(bundle))
    engine = create(config, bundle)
    start = [Message("system", system)] if system else []
    messages = list(start)
    try:
        if source.isatty():
            log("type a message; /new forgets the conversation, /exit leaves")
        for line in _lines(source):
            if line in LEAVE:
                return
            if line == "/new":
                messages = list(start)
                continue
            question = [*messages, Message("user", line)]
            reply = _answer(engine, chat, question, Sampling(max_tokens, temperature), sink)
            messages = [*question, reply] if reply is not None else messages
    finally:
        engine.close()


def _lines(source: TextIO) -> Iterator[str]:
    while True:
        if source.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        if not (line := source.readline()):
            return
        if line.strip():
            yield line.strip()


def _answer(engine: Engine, chat: Chat, messages: list[Message], sampling: Sampling, sink: TextIO) -> Message | None:
    """Print the answer while it comes; Ctrl-C ends the answer, not the conversation."""
    try:
        answer = Answer(chat, chat.render(messages, generation=True))
        request = Request("turn", chat.prompt_ids(messages), sampling, chat.stop_ids)
    except DataError as error:
        log(str(error))
        return None
    engine.submit(request)
    shown = ""
    try:
        while answer.finish is None:
            for event in engine.poll(POLL_S):
                for kind, text in answer.add(event):
                    lead = f"\n[{kind}]\n" if kind != shown and (shown or kind == "reasoning") else ""
                    shown = kind
                    print(lead + text, end="", file=sink, flush=True)
                if event.finish == "error":
                    log(f"the engine failed: {event.error}")
    except KeyboardInterrupt:
        engine.cancel(request.id)
        while not any(event.finish for event in engine.poll(POLL_S)):
            pass
    print(file=sink, flush=True)
    return None if answer.finish == "error" else Message("assistant", answer.content, answer.reasoning)
