"""What the fault tests ask of a gateway, and how they read what came: an answer, a clean error, or something else."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import httpx

from tests.waiting import waiter
from tuneloop.serve.gateway import Gateway

wait_for = waiter(20.0, every_s=0.005)
CHAT, COMPLETIONS, GENERATE = "/v1/chat/completions", "/v1/completions", "/generate"


@dataclass(frozen=True)
class Outcome:
    """How one request ended."""

    status: int
    text: str = ""
    error: str = ""
    """The code of OpenAI's error body, or of the error event in a stream."""
    seconds: float = 0.0
    retry_after_s: int | None = None

    @property
    def answered(self) -> bool:
        return self.status == 200 and not self.error


class Site:
    """A running gateway over the fake engine, which echoes prompts: everybody's right answer is his own question."""

    def __init__(self, gateway: Gateway, url: str, key: str) -> None:
        self.gateway, self.url, self.headers = gateway, url, {"Authorization": f"Bearer {key}"}
        limits = httpx.Limits(max_connections=None)
        self.http = httpx.Client(base_url=url, headers=self.headers, timeout=60, limits=limits, trust_env=False)

    def ask(self, body: dict[str, Any], path: str = COMPLETIONS) -> Outcome:
        """Send one request to the end.

        Raises:
            httpx.HTTPError: It got neither an answer nor an error.
        """
        begun = time.monotonic()
        if body.get("stream"):
            with self.http.stream("POST", path, json=body) as reply:
                lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
        else:
            reply = self.http.post(path, json=body)
            lines = [reply.text]
        text, error = read_events(lines) if body.get("stream") and reply.status_code == 200 else read_body(lines[0])
        after = reply.headers.get("retry-after")
        return Outcome(reply.status_code, text, error, time.monotonic() - begun, int(after) if after else None)

    def ready(self) -> tuple[int, str]:
        reply = self.http.get("/readyz")
        return reply.status_code, reply.json()["status"]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's series that have these labels."""
        lines = self.http.get("/metrics").text.splitlines()
        wanted = [f'{k}="{v}"' for k, v in labels.items()]
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.startswith((f"{name}{{", f"{name} ")) and all(w in line for w in wanted)
        )


def read_body(text: str) -> tuple[str, str]:
    """(text of the answer, code of the error); an error body is OpenAI's, with all its fields."""
    body = json.loads(text)
    if "error" in body:
        assert set(body["error"]) == {"message", "type", "param", "code"}
        return "", body["error"]["code"]
    choice = body["choices"][0] if "choices" in body else body
    return (choice["message"]["content"] if "message" in choice else choice["text"]), ""


def read_events(lines: list[str]) -> tuple[str, str]:
    """The same of a stream, which ends either with [DONE] or with an error event, never with both or neither."""
    *events, last = lines
    text = ""
    for event in map(json.loads, events):
        for choice in event.get("choices", [event]):
            text += choice["delta"].get("content") or "" if "delta" in choice else choice.get("text", "")
    return (text, "") if last == "[DONE]" else (text, json.loads(last)["error"]["code"])
