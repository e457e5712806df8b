"""Mixed traffic for hours, every request counted by route and status as Prometheus should have counted it."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import httpx

from tuneloop.serve.rpc import tuneloop_pb2 as pb
from tuneloop.serve.rpc.service import NAME
from tuneloop.serve.rpc.tuneloop_pb2_grpc import TuneloopStub

CHAT, COMPLETIONS, GENERATE = "/v1/chat/completions", "/v1/completions", "/generate"
NO_ROUTE, NO_METHOD = "none", "grpc"
"""The labels of what is refused at the doors."""
STATUS = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
}
WORKERS, THINK_S = 5, 0.05
RESTING_S = 0.5
BURST, BURST_EVERY_S = 24, 3.0
"""More at once than places and queue can hold."""
LEAVE_S, LONG_TOKENS = 0.3, 1500
"""When a client leaves, and how much more it has asked for than is made until then."""
LONG = pb.GenerateRequest(prompt="I lost my card", raw=True, max_tokens=LONG_TOKENS)
SCHEMA = {
    "type": "object",
    "properties": {"card": {"type": "boolean"}},
    "required": ["card"],
    "additionalProperties": False,
}
STRUCTURED = {"type": "json_schema", "json_schema": {"name": "intent", "schema": SCHEMA, "strict": True}}


class Traffic:
    """Asks ``url`` until told to stop.

    Args:
        url: The gateway.
        target: Its gRPC port.
        headers: With a key for chats, batches and metrics.
        seed: Decides who asks what.
    """

    def __init__(self, url: str, target: str, headers: dict[str, str], seed: int = 0) -> None:
        self._url, self._target, self._headers, self._draw = url, target, headers, random.Random(seed)
        self._meta = (("authorization", headers["Authorization"]),)
        self._stop = asyncio.Event()
        self._trust = ssl.create_default_context()  # once: reading it for every client takes longer than the request
        self.sent: Counter[tuple[str, int]] = Counter()
        """Requests by route or method, and status."""
        self.finished = self.left = self.batch_lines = 0
        """Answers read to the end, answers left before, lines of batches that were answered."""

    @property
    def requests(self) -> int:
        return self.sent.total()

    async def run(self, seconds: float) -> None:
        """Traffic for so long; returns when the last request has ended."""
        self._stop.clear()
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._work())
            group.create_task(self._repeat(self._burst, BURST_EVERY_S))
            group.create_task(self._repeat(self._batch, BURST_EVERY_S))
            await asyncio.sleep(seconds)
            self._stop.set()

    async def _work(self) -> None:
        kinds: list[Callable[[httpx.AsyncClient], Awaitable[None]]] = [
            self._chat, self._stream, self._leave_stream, self._leave, self._generate, self._structured, self._mistake,
            self._wrong_key, self._unknown, self._scrape,
        ]  # fmt: skip
        calls: list[Callable[[TuneloopStub], Awaitable[None]]] = [
            self._call_chat, self._call_stream, self._call_leave_stream, self._call_leave, self._call_mistake,
        ]  # fmt: skip
        async with self._client() as http, self._channel() as channel:
            stub = TuneloopStub(channel)
            while not self._stop.is_set():
                if (number := self._draw.randrange(len(kinds) + len(calls))) < len(kinds):
                    await kinds[number](http)
                else:
                    await calls[number - len(kinds)](stub)
                await asyncio.sleep(THINK_S)

    async def _repeat(self, work: Callable[[], Awaitable[None]], every_s: float) -> None:
        while not self._stop.is_set():
            await work()
            await asyncio.sleep(every_s)

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self._url, headers=self._headers, timeout=60, verify=self._trust, trust_env=False
        )

    def _channel(self) -> grpc.aio.Channel:
        """A connection of its own: without the option, grpc shares one among all channels of a process."""
        return grpc.aio.insecure_channel(self._target, (("grpc.use_local_subchannel_pool", 1),))

    def _count(self, route: str, status: int, *expected: int) -> None:
        assert status in expected, f"{route}: {status} instead of {expected}"
        self.sent[route, status] += 1

    def _say(self) -> dict[str, Any]:
        said = " ".join(
            self._draw.choice(("card", "lost", "卡", "transfer", "why")) for _ in range(self._draw.randint(1, 20))
        )
        return {"messages": [{"role": "user", "content": said}], "max_tokens": self._draw.randint(1, 12)}

    async def _post(self, http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> httpx.Response:
        reply = await http.post(path, json=body)
        self._count(path, reply.status_code, 200, 429)
        self.finished += reply.status_code == 200
        return reply

    async def _chat(self, http: httpx.AsyncClient) -> None:
        await self._post(http, CHAT, self._say())

    async def _generate(self, http: httpx.AsyncClient) -> None:
        await self._post(http, GENERATE, {"prompt": "I lost my card", "max_tokens": 3})

    async def _structured(self, http: httpx.AsyncClient) -> None:
        reply = await self._post(http, CHAT, self._say() | {"response_format": STRUCTURED, "max_tokens": 40})
        choice = reply.json()["choices"][0] if reply.status_code == 200 else {"finish_reason": "length"}
        if choice["finish_reason"] == "stop":
            assert set(json.loads(choice["message"]["content"])) == {"card"}

    async def _stream(self, http: httpx.AsyncClient) -> None:
        async with http.stream("POST", CHAT, json=self._say() | {"stream": True}) as reply:
            lines = [line async for line in reply.aiter_lines() if line]
        self._count(CHAT, reply.status_code, 200, 429)
        if reply.status_code == 200:
            assert lines[-1] == "data: [DONE]"
            self.finished += 1

    async def _leave_stream(self, _: httpx.AsyncClient) -> None:
        body = {"prompt": "I lost my card", "max_tokens": LONG_TOKENS, "stream": True}
        async with self._client() as http, http.stream("POST", COMPLETIONS, json=body) as reply:
            self._count(COMPLETIONS, reply.status_code, 200, 429)
            if reply.status_code == 200:
                await anext(reply.aiter_lines())
                self.left += 1

    async def _leave(self, _: httpx.AsyncClient) -> None:
        """Over a raw connection: it must be sure that the request is sent."""
        host, _, port = self._url.removeprefix("http://").partition(":")
        body = json.dumps({"prompt": "I lost my card", "max_tokens": LONG_TOKENS}).encode()
        head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
        head += "Content-Type: application/json\r\n"
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"{head}Authorization: {self._headers['Authorization']}\r\n\r\n".encode() + body)
        await writer.drain()
        try:
            async with asyncio.timeout(LEAVE_S):
                self._count(COMPLETIONS, int((await reader.readline()).split()[1]), 429)
        except TimeoutError:
            self.sent[COMPLETIONS, 499] += 1
            self.left += 1
        finally:
            writer.close()

    async def _mistake(self, http: httpx.AsyncClient) -> None:
        self._count(NO_ROUTE, (await http.post(CHAT, content=b"{")).status_code, 400)
        self._count(CHAT, (await http.post(CHAT, json=self._say() | {"temperature": 9})).status_code, 400)

    async def _wrong_key(self, http: httpx.AsyncClient) -> None:
        wrong = {"Authorization": f"Bearer tl-{self._draw.random()}"}
        self._count(NO_ROUTE, (await http.post(CHAT, json=self._say(), headers=wrong)).status_code, 401)

    async def _unknown(self, http: httpx.AsyncClient) -> None:
        self._count(NO_ROUTE, (await http.get(f"/v1/{self._draw.random()}")).status_code, 404)

    async def _scrape(self, http: httpx.AsyncClient) -> None:
        self._count("/metrics", (await http.get("/metrics")).status_code, 200)
        self._count("/readyz", (await http.get("/readyz")).status_code, 200)

    async def _answered(self, method: str, call: Any) -> bool:
        """Count a call when it has ended; whether it was not turned away."""
        self._count(f"/{NAME}/{method}", status := STATUS[await call.code()], 200, 429)
        self.finished += status == 200
        return status == 200

    async def _call_chat(self, stub: TuneloopStub) -> None:
        call = stub.Chat(self._said(), metadata=self._meta, timeout=60)
        if await self._answered("Chat", call):
            assert (await call).choices[0].finish_reason

    async def _call_stream(self, stub: TuneloopStub) -> None:
        call, ended = stub.ChatStream(self._said(), metadata=self._meta, timeout=60), False
        while (message := await _next(call)) is not None:
            ended = bool(message.choices[0].finish_reason)
        assert await self._answered("ChatStream", call) is ended

    async def _call_leave_stream(self, stub: TuneloopStub) -> None:
        call = stub.GenerateStream(LONG, metadata=self._meta, timeout=60)
        if await _next(call) is None:
            assert not await self._answered("GenerateStream", call)
        else:
            self._leave_call("GenerateStream", call)

    async def _call_leave(self, _: TuneloopStub) -> None:
        """Over a new connection. A call that is cancelled before it has begun nobody would count: its headers say that
        it has, and a client shows them before the answer only where it takes the answer for a stream."""
        async with self._channel() as channel:
            method = channel.unary_stream(f"/{NAME}/Generate", pb.GenerateRequest.SerializeToString)
            call = method(LONG, metadata=self._meta, timeout=60)
            await call.initial_metadata()
            try:
                async with asyncio.timeout(LEAVE_S):
                    assert not await self._answered("Generate", call)
            except TimeoutError:
                self._leave_call("Generate", call)

    def _leave_call(self, method: str, call: Any) -> None:
        assert call.cancel()
        self.sent[f"/{NAME}/{method}", 499] += 1
        self.left += 1

    async def _call_mistake(self, stub: TuneloopStub) -> None:
        call = stub.Chat(self._said(temperature=9), metadata=self._meta, timeout=60)
        self._count(f"/{NAME}/Chat", STATUS[await call.code()], 400)
        wrong = stub.Chat(self._said(), metadata=(("authorization", f"Bearer tl-{self._draw.random()}"),), timeout=60)
        self._count(NO_METHOD, STATUS[await wrong.code()], 401)
        listed = stub.ListModels(pb.ListModelsRequest(), metadata=self._meta, timeout=60)
        self._count(f"/{NAME}/ListModels", STATUS[await listed.code()], 200)

    def _said(self, **more: Any) -> pb.ChatRequest:
        said = self._say()
        return pb.ChatRequest(
            messages=[pb.Message(**m) for m in said["messages"]], max_tokens=said["max_tokens"], **more
        )

    async def _burst(self) -> None:
        async with self._client() as http:
            replies = await asyncio.gather(*(self._post(http, CHAT, self._say()) for _ in range(BURST)))
        assert any(r.status_code == 429 for r in replies) or len(replies) < BURST

    async def _batch(self) -> None:
        """Upload, run, read, delete."""
        count = 5
        lines = [{"custom_id": str(i), "method": "POST", "url": CHAT, "body": self._say()} for i in range(count)]
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        async with self._client() as http:
            sent = await http.post("/v1/files", files={"file": ("in.jsonl", text)}, data={"purpose": "batch"})
            self._count("/v1/files", sent.status_code, 200)
            file = sent.json()["id"]
            body = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
            made = await http.post("/v1/batches", json=body)
            self._count("/v1/batches", made.status_code, 200)
            batch = made.json()
            while batch["status"] not in ("completed", "failed"):
                await asyncio.sleep(0.3)
                reply = await http.get(f"/v1/batches/{batch['id']}")
                self._count("/v1/batches/{batch_id}", reply.status_code, 200)
                batch = reply.json()
            assert batch["request_counts"] == {"total": count, "completed": count, "failed": 0}
            self.batch_lines += count
            out = await http.get(f"/v1/files/{batch['output_file_id']}/content")
            self._count("/v1/files/{file_id}/content", out.status_code, 200)
            assert len(out.text.splitlines()) == count
            for name in (file, batch["output_file_id"]):
                self._count("/v1/files/{file_id}", (await http.delete(f"/v1/files/{name}")).status_code, 200)


async def _next(call: Any) -> Any:
    """The next message of a call; None after the last, and where there is none."""
    try:
        message = await call.read()
    except grpc.aio.AioRpcError:
        return None
    return None if message is grpc.aio.EOF else message
