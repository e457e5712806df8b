"""Temperature 0: HTTP, gRPC and decoding by recomputing everything give one answer, alone and eight at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import write_llama_gguf
from tuneloop.chat import Chat
from tuneloop.engines import EngineConfig
from tuneloop.models import load_model, load_tokenizer, open_bundle
from tuneloop.serve import ServeConfig
from tuneloop.types import Message

httpx = pytest.importorskip("httpx", reason="pip install 'tuneloop[serve]'")
grpc = pytest.importorskip("grpc", reason="pip install 'tuneloop[grpc]'")
pytest.importorskip("grpc_status", reason="pip install 'tuneloop[grpc]'")

from tuneloop.serve.check import running  # noqa: E402
from tuneloop.serve.rpc import tuneloop_pb2 as pb  # noqa: E402
from tuneloop.serve.rpc.tuneloop_pb2_grpc import TuneloopStub  # noqa: E402

NEW_TOKENS = 12
WIDE = 0.3
"""Weights as small as real ones start with make every answer of a random model the same."""
QUESTIONS = [f"Why was I charged {n} times for {what}?" for n in (2, 30) for what in ("it", "my card", "a transfer", "这笔转账")]  # fmt: skip


@dataclass
class Site:
    """A gateway, asked at temperature 0 over both protocols."""

    url: str
    key: str
    stub: TuneloopStub

    def http(self, question: str) -> str:
        body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": NEW_TOKENS}
        headers = {"Authorization": f"Bearer {self.key}"}
        reply = httpx.post(f"{self.url}/v1/chat/completions", json=body, headers=headers, timeout=60, trust_env=False)
        return str(reply.json()["choices"][0]["message"]["content"])

    def grpc(self, question: str) -> str:
        return str(self.stub.Chat(_ask(question), metadata=self._meta, timeout=60).choices[0].message.content)

    def grpc_stream(self, question: str) -> str:
        chunks = self.stub.ChatStream(_ask(question), metadata=self._meta, timeout=60)
        return "".join(chunk.choices[0].delta.content for chunk in chunks)

    @property
    def _meta(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.key}"),)


def _ask(question: str) -> Any:
    said = [pb.Message(role="user", content=question)]
    return pb.ChatRequest(messages=said, temperature=0.0, max_tokens=NEW_TOKENS)


@pytest.fixture(scope="module")
def expected(tiny: Callable[..., Path]) -> list[str]:
    """The plain model, the whole sequence again for every token."""
    folder = tiny("llama", "chatml", initializer_range=WIDE)
    model, chat = load_model(folder, device="cpu"), Chat(load_tokenizer(open_bundle(folder)))
    answers = [_naive(model, chat, question) for question in QUESTIONS]
    assert len(set(answers)) == len(QUESTIONS), "answers that are all alike prove nothing"
    return answers


def _naive(model: torch.nn.Module, chat: Chat, question: str) -> str:
    prompt = chat.prompt_ids([Message("user", question)])
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) < len(prompt) + NEW_TOKENS:
            token = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if token in chat.stop_ids:
                break
            ids.append(token)
    return chat.decode(ids[len(prompt) :])


@pytest.fixture(scope="module", params=["transformers", "llamacpp"])
def model(request: pytest.FixtureRequest, tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:  # fmt: skip
    """An engine, and the same float32 weights in the form that it reads."""
    folder = tiny("llama", "chatml", initializer_range=WIDE)
    if request.param == "transformers":
        return "transformers", folder
    pytest.importorskip("xllamacpp", reason="pip install 'tuneloop[llamacpp]'")
    pytest.importorskip("gguf", reason="pip install 'tuneloop[train]'")
    out = tmp_path_factory.mktemp("gguf")
    write_llama_gguf(folder, out / "model.f32.gguf")
    load_tokenizer(open_bundle(folder)).save_pretrained(out)
    return "llamacpp", out


@pytest.fixture(scope="module", params=[1, 8], ids=["one at a time", "batched"])
def site(request: pytest.FixtureRequest, model: tuple[str, Path]) -> Iterator[Site]:
    name, folder = model
    engine = EngineConfig(name=name, max_running=request.param, threads=1, device="cpu", context_tokens=256)
    with running(ServeConfig(engine=engine, grpc_port=0), open_bundle(folder)) as (gateway, url, key):
        assert gateway.rpc is not None
        with grpc.insecure_channel(f"127.0.0.1:{gateway.rpc.port}") as channel:
            yield Site(url, key, TuneloopStub(channel))


@pytest.mark.parametrize("door", ["http", "grpc", "grpc_stream"])
def test_greedy_answers_are_those_of_recomputing_everything(site: Site, door: str, expected: list[str]) -> None:
    with ThreadPoolExecutor(len(QUESTIONS)) as pool:
        assert list(pool.map(getattr(site, door), QUESTIONS)) == expected
