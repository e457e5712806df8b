"""A small server that talks like vLLM's ``/v1/completions``, around any engine: for tests of the ``upstream`` engine.

Fields, names and meanings are those of vllm/entrypoints/openai/completion/protocol.py: ``return_token_ids`` puts
``token_ids`` into every chunk, the stop token among them; ``return_tokens_as_token_ids`` writes tokens as
``token_id:N``; ``ignore_eos`` leaves the end to ``stop_token_ids``; an unknown model is 404. With ``words``, a tokenizer,
it also keeps to a grammar (``structured_outputs``, vllm/sampling_params.py); without it leaves the field out, as a server does
that does not know it.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from typing import Any

from tuneloop.engines import Engine
from tuneloop.types import Grammar, Request, Sampling, TokenEvent

MODEL = "tiny"
Say = Callable[[dict[str, Any]], None]


class VllmLike:
    """Serves an engine on a free port of 127.0.0.1 until it is closed. ``key`` asks for a bearer token."""

    def __init__(self, engine: Engine, *, key: str | None = None, port: int = 0, words: Any = None) -> None:
        self.engine, self.key, self.words = engine, key, words
        self.bodies: list[dict[str, Any]] = []
        self.cancelled: list[str] = []
        self.broken: Callable[[int], bytes | None] = lambda chunk: None
        """Says what to send instead of chunk number n (nothing: the stream ends there); the connection is closed after it."""
        self.refusal: bytes | None = None
        """Answer every question with 400 and this."""
        self.connections = 0
        self.forgetful = False
        """Close the connection after an answer without a word, as a server does whose patience has just ended."""
        self._lock, self._over = threading.Lock(), threading.Event()
        self._queues: dict[str, SimpleQueue[TokenEvent]] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                server.connections += 1

            def do_GET(self) -> None:
                server.get(self)

            def do_POST(self) -> None:
                server.post(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._http.serve_forever, self._pump)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._over.set()
        self._http.shutdown()
        self._http.server_close()
        for thread in self._threads:
            thread.join()
        self.engine.close()

    def _pump(self) -> None:
        while not self._over.is_set():
            with self._lock:
                events = self.engine.poll(0.0)
            for event in events:
                if (queue := self._queues.get(event.request_id)) is not None:
                    queue.put(event)
            if not events:
                self._over.wait(0.001)

    def get(self, http: BaseHTTPRequestHandler) -> None:
        if http.path == "/health":
            answer(http, 200, {})
        elif http.path == "/v1/models" and self._allowed(http):
            context = self.engine.capabilities.max_context_tokens
            answer(http, 200, {"data": [{"id": MODEL, "max_model_len": context}]})
        elif http.path != "/v1/models":
            answer(http, 404, {"detail": "Not Found"})

    def _allowed(self, http: BaseHTTPRequestHandler) -> bool:
        if self.key is not None and http.headers.get("Authorization") != f"Bearer {self.key}":
            answer(http, 401, {"error": "Unauthorized"})
            return False
        return True

    def post(self, http: BaseHTTPRequestHandler) -> None:
        body = json.loads(http.rfile.read(int(http.headers["Content-Length"])))
        if not self._allowed(http):
            return
        if http.path != "/v1/completions":
            answer(http, 404, {"detail": "Not Found"})
        elif body.get("model") != MODEL:
            answer(http, 404, {"error": {"message": "The model does not exist.", "code": 404}})
        elif self.refusal is not None:
            answer(http, 400, json.loads(self.refusal))
        else:
            self.bodies.append(body)
            self._complete(http, body)

    def _complete(self, http: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        name = f"cmpl-{len(self.bodies)}-{threading.get_ident()}"
        sampling = Sampling(
            body["max_tokens"],
            body["temperature"],
            body["top_p"],
            max(body.get("top_k") or 0, 0),
            body.get("seed"),
            body.get("presence_penalty") or 0.0,
            body.get("frequency_penalty") or 0.0,
            tuple((int(token), bias) for token, bias in (body.get("logit_bias") or {}).items()),
            logprobs=body.get("logprobs") is not None,
            top_logprobs=body.get("logprobs") or 0,
            grammar=self._grammar(body),
        )
        queue = self._queues[name] = SimpleQueue()
        with self._lock:
            self.engine.submit(Request(name, tuple(body["prompt"]), sampling))
        try:
            first = queue.get()
            if first.error:  # vLLM looks at a grammar before it begins
                answer(http, 400, {"error": {"message": first.error, "code": 400}})
                return
            events = itertools.chain([first], iter(queue.get, None))
            self._stream(http, body, events) if body["stream"] else self._whole(http, body, events)
        except (BrokenPipeError, ConnectionResetError):
            self.cancelled.append(name)
        finally:
            del self._queues[name]
            with self._lock:
                self.engine.cancel(name)

    def _grammar(self, body: dict[str, Any]) -> Grammar | None:
        wanted = body.get("structured_outputs") if self.engine.capabilities.grammar else None
        return grammar_of(wanted["grammar"], self.words) if wanted and self.words else None

    def _stream(self, http: BaseHTTPRequestHandler, body: dict[str, Any], events: Iterator[TokenEvent]) -> None:
        http.send_response(200)
        http.send_header("Content-Type", "text/event-stream")
        http.send_header("Transfer-Encoding", "chunked")
        http.end_headers()

        def send(data: bytes) -> None:
            http.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

        finish, count = None, 0
        while finish is None:
            choice = chunk_of(next(events), body)
            finish = choice["finish_reason"]
            if (instead := self.broken(count)) is not None:
                send(instead) if instead else http.wfile.write(b"0\r\n\r\n")
                http.close_connection = True
                break
            send(b"data: " + json.dumps({"model": MODEL, "choices": [choice]}).encode() + b"\n\n")
            count += 1
        else:
            send(b"data: [DONE]\n\n")
            http.wfile.write(b"0\r\n\r\n")
            http.close_connection = self.forgetful

    def _whole(self, http: BaseHTTPRequestHandler, body: dict[str, Any], events: Iterator[TokenEvent]) -> None:
        choice: dict[str, Any] = {"token_ids": [], "finish_reason": None, "logprobs": None}
        while choice["finish_reason"] is None:
            found = chunk_of(next(events), body)
            choice = found | {"token_ids": choice["token_ids"] + found["token_ids"]}
        if self.words:
            choice["text"] = self.words.decode(choice["token_ids"])
        with suppress(BrokenPipeError):
            answer(http, 200, {"model": MODEL, "choices": [choice]})


def grammar_of(text: str, words: Any) -> Grammar:
    """What a grammar in llguidance's Lark says: literals and control tokens around one JSON schema."""
    first, start, body = text.splitlines()
    assert first == "%llguidance {}"
    schema = {k: v for k, v in json.loads(body.removeprefix("body: %json ")).items() if k != "x-guidance"}

    def literal(part: str) -> str:
        found = re.findall(r'<\[(\d+)\]>|("(?:[^"\\]|\\.)*")', part)
        return "".join(words.convert_ids_to_tokens(int(token)) if token else json.loads(text) for token, text in found)

    before, after = start.removeprefix("start: ").split(" body ")
    return Grammar(json.dumps(schema), literal(before), literal(after))


def chunk_of(event: TokenEvent, body: dict[str, Any]) -> dict[str, Any]:
    """A choice as vLLM writes it; the stop token is one of its token ids."""
    tokens, finish = list(event.token_ids), event.finish
    stop = next((i for i, t in enumerate(tokens) if t in body["stop_token_ids"]), None)
    if stop is not None:
        tokens, finish = tokens[: stop + 1], "stop"
    values = list(event.logprobs[: len(tokens)])
    named = [f"token_id:{t}" for t in tokens]
    beside = event.top or ((),) * len(named)
    top = [
        {f"token_id:{t}": v for t, v in others} | {name: value}
        for name, value, others in zip(named, values, beside, strict=False)
    ]
    wanted = body.get("logprobs") is not None
    logprobs = {"tokens": named, "token_logprobs": values, "top_logprobs": top} if wanted else None
    return {"index": 0, "text": "", "token_ids": tokens, "finish_reason": finish, "logprobs": logprobs}


def answer(http: BaseHTTPRequestHandler, status: int, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    http.send_response(status)
    http.send_header("Content-Type", "application/json")
    http.send_header("Content-Length", str(len(data)))
    http.end_headers()
    http.wfile.write(data)
