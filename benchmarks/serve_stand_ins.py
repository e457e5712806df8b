"""Two small servers for benchmarks/serve.py.

    python benchmarks/serve_stand_ins.py instant PORT '{"text": ..., "tokens": [[7, "The"], ...]}'
    python benchmarks/serve_stand_ins.py passthrough PORT http://127.0.0.1:UPSTREAM

``instant`` is an OpenAI-compatible server that answers at once with the same text, whole or as a stream with one event
(and one write) a token: a bare asyncio protocol that only looks for the end of a request. It talks like vLLM
(``return_token_ids``). ``passthrough`` is what people write first: FastAPI and one httpx client on uvicorn.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

STREAM = (b'"stream": true', b'"stream":true')
CREATED = 1_700_000_000
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def answers(text: str, tokens: list[tuple[int, str]]) -> dict[tuple[bytes, bool], list[bytes]]:
    """(path, streaming) -> what is written, piece by piece; made once."""

    def whole(body: Any) -> list[bytes]:
        data = json.dumps(body, separators=(",", ":")).encode()
        return [HEAD % (len(data), data)]

    def stream(bodies: list[Any]) -> list[bytes]:
        events = [f"data: {json.dumps(body, separators=(',', ':'))}\n\n".encode() for body in bodies]
        parts = [b"%x\r\n%s\r\n" % (len(e), e) for e in [*events, b"data: [DONE]\n\n"]]
        return [STREAM_HEAD + parts[0], *parts[1:-1], parts[-1] + b"0\r\n\r\n"]

    usage = {"prompt_tokens": 1, "completion_tokens": len(tokens), "total_tokens": 1 + len(tokens)}

    def head(kind: str) -> dict[str, Any]:
        return {"id": "instant", "object": kind, "created": CREATED, "model": "instant"}

    def choice(**more: Any) -> dict[str, Any]:
        return {"choices": [{"index": 0, "logprobs": None, "finish_reason": None} | more]}

    said = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    completion = {"text": text, "token_ids": [i for i, _ in tokens], "finish_reason": "stop"}
    chunk, piece = head("chat.completion.chunk"), head("text_completion")
    first = choice(delta={"role": "assistant", "content": ""})
    return {
        (b"/v1/chat/completions", False): whole(head("chat.completion") | choice(**said) | {"usage": usage}),
        (b"/v1/chat/completions", True): stream(
            [chunk | first]
            + [chunk | choice(delta={"content": t}) for _, t in tokens]
            + [chunk | choice(delta={}, finish_reason="stop")]
        ),
        (b"/v1/completions", False): whole(piece | choice(**completion) | {"usage": usage}),
        (b"/v1/completions", True): stream(
            [piece | choice(text=t, token_ids=[i]) for i, t in tokens]
            + [piece | choice(text="", token_ids=[], finish_reason="stop")]
        ),
        (b"/v1/models", False): whole({"object": "list", "data": [{"id": "instant", "object": "model"}]}),
    }


class Instant(asyncio.Protocol):
    """One connection; requests have a Content-Length and come one after the other."""

    known: dict[tuple[bytes, bool], list[bytes]]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport, self._waiting = transport, b""

    def data_received(self, data: bytes) -> None:
        self._waiting += data
        while (end := self._waiting.find(b"\r\n\r\n")) >= 0:
            head = self._waiting[:end]
            at = head.lower().find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._waiting) < end + 4 + length:
                return
            body, self._waiting = self._waiting[end + 4 : end + 4 + length], self._waiting[end + 4 + length :]
            pieces = self.known.get((head.split(b" ", 2)[1], any(word in body for word in STREAM)))
            for piece in pieces or [b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"]:
                self._transport.write(piece)


async def instant(port: int, settings: dict[str, Any]) -> None:
    """Serve until killed."""
    Instant.known = answers(settings["text"], settings["tokens"])
    server = await asyncio.get_running_loop().create_server(Instant, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def passthrough(port: int, upstream: str) -> None:
    """Serve until killed."""
    import httpx
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse, Response, StreamingResponse

    app = FastAPI()
    client = httpx.AsyncClient(base_url=upstream, limits=httpx.Limits(max_keepalive_connections=256), timeout=60)

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse((await client.get("/v1/models")).json())

    async def chat(request: Request) -> Response:
        body = await request.json()
        if not body.get("stream"):
            reply = await client.post("/v1/chat/completions", json=body)
            return JSONResponse(reply.json(), reply.status_code)
        asked = client.build_request("POST", "/v1/chat/completions", json=body)
        reply = await client.send(asked, stream=True)
        return StreamingResponse(reply.aiter_raw(), reply.status_code, media_type="text/event-stream")

    chat.__annotations__["request"] = Request  # a name of this function, which FastAPI cannot look up
    app.post("/v1/chat/completions", response_model=None)(chat)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


if __name__ == "__main__":
    kind, port, word = sys.argv[1:]
    if kind == "instant":
        asyncio.run(instant(int(port), json.loads(word)))
    else:
        passthrough(int(port), word)
