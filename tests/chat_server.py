"""A real HTTP server with the chat completions API, for tests of clients: it counts, fails on demand, and can hold answers."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """One HTTP response; a ``body`` that is a string is the text of a chat completion."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Server:
    """What arrived. ``received`` counts requests by what they ask (messages and idempotency key), ``served`` full answers."""

    reply: Callable[[dict[str, Any], int], Reply]
    url: str = ""
    received: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    requests: list[tuple[dict[str, Any], dict[str, str]]] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    hold_from: int | None = None
    """From the request with this number on, answers are held back until ``release`` is set, and then not given."""
    held: int = 0
    release: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serving(reply: Callable[[dict[str, Any], int], Reply]) -> Iterator[Server]:
    """A server on a free port. ``reply`` is given the body and how often the same request has come before."""
    server = Server(reply)
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        http.shutdown()
        http.server_close()
        thread.join()


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            key = self.headers.get("Idempotency-Key") or ""
            asked = hashlib.sha256((json.dumps(body) + key).encode()).hexdigest()
            with server.lock:
                before = server.received[asked]
                server.received[asked] += 1
                server.requests.append((body, dict(self.headers)))
                number = len(server.requests)
                server.under_way += 1
                server.most_under_way = max(server.most_under_way, server.under_way)
            try:
                if server.hold_from is not None and number >= server.hold_from and not server.release.is_set():
                    with server.lock:
                        server.held += 1
                    server.release.wait(60)
                    return  # whoever asked is gone: nothing was delivered
                self.send(server.reply(body, before), asked)
            finally:
                with server.lock:
                    server.under_way -= 1

        def send(self, reply: Reply, asked: str) -> None:
            content = reply.body
            if isinstance(content, str) and reply.status == 200:
                content = {
                    "choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 100, "completion_tokens": 40},
                }
            data = json.dumps(content).encode()
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(data)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
            if reply.status == 200:
                with server.lock:
                    server.served[asked] += 1

        def log_message(self, *words: Any) -> None:
            """Keep the test's output clean."""

    return Handler
