"""gRPC over real channels: the same answers and refusals as HTTP, keys, health, reflection, cancellation, drain, TLS."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import waiter
from tuneloop.engines import EngineConfig, FakeConfig
from tuneloop.errors import ResourceError
from tuneloop.models import Bundle, open_bundle
from tuneloop.serve import ServeConfig
from tuneloop.serve.audit import AuditConfig
from tuneloop.serve.limits import LimitsConfig

httpx = pytest.importorskip("httpx", reason="pip install 'tuneloop[serve]'")
grpc = pytest.importorskip("grpc", reason="pip install 'tuneloop[grpc]'")
pytest.importorskip("grpc_status", reason="pip install 'tuneloop[grpc]'")

from google.protobuf.json_format import MessageToDict  # noqa: E402
from google.rpc import error_details_pb2  # noqa: E402
from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: E402
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase  # noqa: E402
from grpc_status import rpc_status  # noqa: E402

from tuneloop.serve import rpc  # noqa: E402
from tuneloop.serve.check import running  # noqa: E402
from tuneloop.serve.gateway import Gateway  # noqa: E402
from tuneloop.serve.keys import KeyRing  # noqa: E402
from tuneloop.serve.rpc import tuneloop_pb2 as pb  # noqa: E402
from tuneloop.serve.rpc.generate import generate  # noqa: E402
from tuneloop.serve.rpc.service import NAME  # noqa: E402
from tuneloop.serve.rpc.tuneloop_pb2_grpc import TuneloopStub  # noqa: E402

wait_for = waiter(10.0)
ASK = [pb.Message(role="user", content="I lost my card")]
Code = grpc.StatusCode


class Site:
    """A running gateway with a channel to its gRPC port."""

    def __init__(self, gateway: Gateway, url: str, key: str, channel: Any = None) -> None:
        self.gateway, self.url, self.key = gateway, url, key
        assert gateway.rpc is not None
        self.target = f"127.0.0.1:{gateway.rpc.port}"
        self.channel = channel or grpc.insecure_channel(self.target)
        self.stub = TuneloopStub(self.channel)
        self.meta = (("authorization", f"Bearer {key}"),)

    def chat(self, **fields: Any) -> Any:
        return self.stub.Chat(pb.ChatRequest(messages=ASK, **fields), metadata=self.meta, timeout=20)

    def stream(self, **fields: Any) -> Any:
        return self.stub.ChatStream(pb.ChatRequest(messages=ASK, **fields), metadata=self.meta, timeout=20)

    def health(self) -> int:
        return int(health_pb2_grpc.HealthStub(self.channel).Check(health_pb2.HealthCheckRequest(service=NAME)).status)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.post(f"{self.url}{path}", json=body, headers=headers, timeout=20)


@pytest.fixture(scope="module")
def bundle(tiny: Callable[..., Path]) -> Bundle:
    return open_bundle(tiny("llama", "chatml"))


@pytest.fixture(scope="module")
def fast(bundle: Bundle) -> Iterator[Site]:
    config = ServeConfig(engine=EngineConfig(name="fake"), model_name="bank", grpc_port=0)
    with running(config, bundle) as (gateway, url, key):
        yield Site(gateway, url, key)


@pytest.fixture
def slow(bundle: Bundle) -> Iterator[Site]:
    """Two places, two more in the queue, 50 tokens a second."""
    engine = EngineConfig(name="fake", max_running=2, fake=FakeConfig(token_delay_s=0.02, answer_ids=(70,) * 400))
    with running(ServeConfig(engine=engine, max_queue=2, grpc_port=0), bundle) as (gateway, url, key):
        yield Site(gateway, url, key)


def refused(call: Callable[[], Any]) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def as_http(message: Any) -> dict[str, Any]:
    """A message as the HTTP body it stands for; protobuf's JSON writes 64-bit integers as text."""
    found = MessageToDict(message, preserving_proto_field_name=True)

    def plain(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {k: plain(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [plain(v, name) for v in value]
        numbers = ("index", "created") if not name.endswith("_tokens") else (name,)
        return int(value) if name in numbers else value

    return plain(found)  # type: ignore[no-any-return]


def known(body: Any) -> Any:
    """Without what differs from call to call, and without nulls, zeros and empty lists, which protobuf leaves out."""
    if isinstance(body, dict):
        return {k: v for k, v in ((k, known(v)) for k, v in body.items() if k not in ("id", "created")) if v not in (None, 0, "", [])}  # fmt: skip
    return [known(v) for v in body] if isinstance(body, list) else body


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_tokens": 5},
        {"n": 3, "temperature": 0.7, "seed": 11, "max_tokens": 6},
        {"logprobs": True, "max_tokens": 4},
        {"stop": ["helpful"]},
        {"max_completion_tokens": 3, "top_k": 4, "top_p": 0.5, "user": "joe", "presence_penalty": 0.0},
    ],
    ids=str,
)
def test_a_chat_is_the_body_that_http_gives(fast: Site, fields: dict[str, Any]) -> None:
    body = {"messages": [{"role": "user", "content": "I lost my card"}]} | fields
    assert known(as_http(fast.chat(**fields))) == known(fast.post("/v1/chat/completions", body).json())


def test_a_stream_of_chat_is_the_events_that_http_sends(fast: Site) -> None:
    fields = {"max_tokens": 6, "logprobs": True}
    messages = list(fast.stream(**fields, stream_options=pb.StreamOptions(include_usage=True)))
    body = {"messages": [{"role": "user", "content": "I lost my card"}], "stream": True} | fields
    said = fast.post("/v1/chat/completions", body | {"stream_options": {"include_usage": True}}).text
    events = [json.loads(line[6:]) for line in said.splitlines() if line.startswith("data: {")]
    assert [known(as_http(m)) for m in messages] == [known(e) for e in events]
    assert messages[-1].usage.completion_tokens == 6


def test_generate_is_the_body_that_http_gives_whole_and_streamed(fast: Site) -> None:
    for fields in (
        {"prompt": "I lost my card"},
        {"prompt": "I lost", "raw": True},
        {"prompt": "x", "system": "be kind"},
    ):
        whole = fast.stub.Generate(pb.GenerateRequest(**fields), metadata=fast.meta, timeout=20)
        assert known(as_http(whole)) == known(fast.post("/generate", fields).json())
        pieces = list(fast.stub.GenerateStream(pb.GenerateRequest(**fields), metadata=fast.meta, timeout=20))
        assert "".join(p.text for p in pieces) == whole.text
        assert (pieces[-1].finish_reason, pieces[-1].usage) == (whole.finish_reason, whole.usage)


def test_models_are_listed(fast: Site) -> None:
    found = fast.stub.ListModels(pb.ListModelsRequest(), metadata=fast.meta)
    assert [m.id for m in found.data] == ["bank"]
    assert found.data[0].max_model_len == 4096


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 17}, "n"),
        ({"temperature": 3.0}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10, "max_completion_tokens": 11}, "max_tokens"),
        ({"logit_bias": {"x": 1.0}}, "logit_bias"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"tools_json": "{"}, "tools"),
        ({"tools_json": "[" * 900 + "]" * 900}, "tools"),
        ({"response_format_json": '{"type": "text", "x": "\\ud800"}'}, "response_format"),
        ({"stream_options": pb.StreamOptions(include_usage=True)}, "stream_options"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_name(fast: Site, fields: dict[str, Any], param: str) -> None:
    error = refused(lambda: fast.chat(**fields))
    assert error.code() is Code.INVALID_ARGUMENT
    assert dict(error.trailing_metadata())["x-error-param"] == param


def test_errors_carry_the_words_of_http_as_google_rpc_details(fast: Site) -> None:
    error = refused(lambda: fast.chat(model="gpt-4"))
    assert error.code() is Code.NOT_FOUND
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.metadata["param"]) == ("model_not_found", "model")
    assert info.metadata["request_id"] == dict(error.trailing_metadata())["x-request-id"]


@pytest.mark.parametrize("meta", [(), (("authorization", "Bearer tl-wrong"),), (("authorization", "Basic x"),)])
@pytest.mark.parametrize("method", [f"/{NAME}/Chat", f"/{NAME}/Nothing", "/other.Service/Method",
                                    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"])  # fmt: skip
def test_every_method_also_an_unknown_one_needs_a_key(fast: Site, method: str, meta: tuple[Any, ...]) -> None:
    call = fast.channel.unary_unary(method)
    assert refused(lambda: call(b"", metadata=meta, timeout=5)).code() is Code.UNAUTHENTICATED


def test_a_key_opens_only_its_scope(fast: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    other = KeyRing.of("metrics-only", scopes=("metrics",)).keys
    monkeypatch.setattr(fast.gateway, "ring", KeyRing((*fast.gateway.ring.keys, *other)))
    meta = (("authorization", "Bearer metrics-only"),)
    error = refused(lambda: fast.stub.ListModels(pb.ListModelsRequest(), metadata=meta))
    assert error.code() is Code.PERMISSION_DENIED
    unknown = fast.channel.unary_unary("/other.Service/Method")
    assert refused(lambda: unknown(b"", metadata=fast.meta)).code() is Code.PERMISSION_DENIED  # it lacks admin


def test_an_admin_hears_that_a_method_is_unknown(fast: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast.gateway, "ring", KeyRing.of("boss", scopes=("admin",)))
    call = fast.channel.unary_unary(f"/{NAME}/Nothing")
    error = refused(lambda: call(b"", metadata=(("authorization", "Bearer boss"),)))
    assert error.code() is Code.UNIMPLEMENTED


def test_a_message_that_is_too_large_is_refused(fast: Site) -> None:
    big = pb.ChatRequest(messages=[pb.Message(role="user", content="x" * 1_100_000)])
    error = refused(lambda: fast.stub.Chat(big, metadata=fast.meta, timeout=20))
    assert error.code() is Code.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("method", ["Chat", "ChatStream", "Generate", "GenerateStream", "ListModels"])
def test_bytes_that_are_no_message_are_the_clients_mistake(
    fast: Site, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = fast.channel.unary_stream if method.endswith("Stream") else fast.channel.unary_unary
    call = kind(f"/{NAME}/{method}")

    def ask() -> Any:
        answer = call(b"\xff\xff", metadata=fast.meta, timeout=5)
        return list(answer) if method.endswith("Stream") else answer

    error = refused(ask)
    assert error.code() is Code.INVALID_ARGUMENT
    assert dict(error.trailing_metadata())["x-error-code"] == "invalid_message"
    assert "Traceback" not in capsys.readouterr().err

    def counted() -> bool:
        lines = fast.gateway.metrics.render().decode().splitlines()
        return any(f'route="/{NAME}/{method}"' in line and 'code="400"' in line for line in lines)

    wait_for(counted)  # the client knows a moment before the counter does


def test_reflection_describes_the_service_to_those_with_a_key(fast: Site) -> None:
    meta = fast.meta

    class WithKey(grpc.StreamStreamClientInterceptor):  # type: ignore[misc]
        def intercept_stream_stream(self, go: Any, details: Any, requests: Any) -> Any:
            return go(details._replace(metadata=meta), requests)

    found = ProtoReflectionDescriptorDatabase(grpc.intercept_channel(fast.channel, WithKey()))
    assert set(found.get_services()) >= {NAME, "grpc.health.v1.Health"}
    described = found.FindFileContainingSymbol(NAME)
    assert [m.name for m in described.service[0].method] == ["Chat", "ChatStream", "Generate", "GenerateStream", "ListModels"]  # fmt: skip


def test_the_context_of_a_call_is_filled_and_its_id_is_in_the_metadata(
    fast: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    submit = fast.gateway.process.submit
    monkeypatch.setattr(fast.gateway.process, "submit", lambda r: (seen.append(r), submit(r)))
    meta = (*fast.meta, ("x-conversation-id", "c7"))
    reply, call = fast.stub.Chat.with_call(pb.ChatRequest(messages=ASK, user="joe"), metadata=meta)
    assert (seen[0].context.user, seen[0].context.conversation, seen[0].context.model) == ("joe", "c7", "bank")
    assert reply.id == f"chatcmpl-{dict(call.initial_metadata())['x-request-id']}"


def test_our_own_bug_is_internal_with_a_request_id_and_a_traceback_in_the_log(
    fast: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fast.gateway.chat, "prompt", lambda *_: 1 / 0)
    error = refused(fast.chat)
    logged = capsys.readouterr().err
    assert error.code() is Code.INTERNAL
    assert dict(error.trailing_metadata())["x-request-id"] in logged
    assert "ZeroDivisionError" in logged
    assert "division" not in error.details()


def test_the_audit_log_has_every_call_with_its_status(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    engine = EngineConfig(name="fake", fake=FakeConfig(token_delay_s=0.02, answer_ids=(70,) * 400))
    config = ServeConfig(engine=engine, model_name="bank", grpc_port=0, audit=AuditConfig(path=path))

    def lines() -> list[dict[str, Any]]:
        return [json.loads(x) for x in path.read_text().splitlines() if '"request_id"' in x]

    with running(config, bundle) as (gateway, url, key):
        site = Site(gateway, url, key)
        site.chat(max_tokens=3)
        refused(lambda: site.chat(n=1000))
        wrong = (("authorization", f"Bearer {key}x"),)
        refused(lambda: site.channel.unary_unary(f"/{NAME}/{key}")(b"", metadata=wrong))
        site.stub.ListModels(pb.ListModelsRequest(), metadata=site.meta)
        call = site.stream(max_tokens=400)
        next(call)
        call.cancel()
        wait_for(lambda: len(lines()) == 5)
    method = f"GRPC /{NAME}"
    assert [(x["route"], x["status"], x["key_id"], x["finish"]) for x in lines()] == [
        (f"{method}/Chat", 200, "key0", ["length"]),
        (f"{method}/Chat", 400, "key0", []),
        ("GRPC (none)", 401, "", []),
        (f"{method}/ListModels", 200, "key0", []),
        (f"{method}/ChatStream", 499, "key0", ["cancelled"]),
    ]
    assert lines()[0]["completion_tokens"] == 3
    assert key not in path.read_text()


def test_refused_calls_count_as_requests_of_their_key(bundle: Bundle) -> None:
    config = ServeConfig(engine=EngineConfig(name="fake"), grpc_port=0, limits=LimitsConfig(requests_per_minute=2))
    with running(config, bundle) as (gateway, url, key):
        site = Site(gateway, url, key)
        codes = [refused(lambda: site.chat(n=1000)).code() for _ in range(3)]
    assert codes == [Code.INVALID_ARGUMENT, Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED]


def test_a_full_queue_is_resource_exhausted_with_retry_info(slow: Site) -> None:
    with ThreadPoolExecutor(4) as pool:
        accepted = [pool.submit(slow.chat, max_tokens=30) for _ in range(4)]
        wait_for(lambda: slow.gateway.process.in_flight == 4)
        error = refused(slow.chat)
        assert error.code() is Code.RESOURCE_EXHAUSTED
        info = error_details_pb2.RetryInfo()
        assert any(detail.Unpack(info) for detail in rpc_status.from_call(error).details)
        assert 1 <= info.retry_delay.seconds <= 60
        assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == str(info.retry_delay.seconds * 1000)
        assert [f.result().usage.completion_tokens for f in accepted] == [30] * 4


@pytest.mark.parametrize("streaming", [True, False])
def test_a_cancelled_call_frees_its_place_within_a_step(slow: Site, streaming: bool) -> None:
    if streaming:
        call = slow.stream(max_tokens=400)
        next(call)
    else:
        call = slow.stub.Chat.future(pb.ChatRequest(messages=ASK, max_tokens=400), metadata=slow.meta)
        wait_for(lambda: slow.gateway.process.in_flight == 1)
    call.cancel()
    left = time.monotonic()
    wait_for(lambda: slow.gateway.process.in_flight == 0)
    assert time.monotonic() - left < 0.5  # 400 tokens would have taken 8 s


def test_a_deadline_ends_the_call_and_frees_its_place(slow: Site) -> None:
    ask = pb.ChatRequest(messages=ASK, max_tokens=400)
    error = refused(lambda: slow.stub.Chat(ask, metadata=slow.meta, timeout=0.3))
    assert error.code() is Code.DEADLINE_EXCEEDED
    wait_for(lambda: slow.gateway.process.in_flight == 0, 0.5)


def test_health_says_when_tokens_can_flow_and_needs_no_key(slow: Site) -> None:
    watch = health_pb2_grpc.HealthStub(slow.channel).Watch(health_pb2.HealthCheckRequest(service=NAME), timeout=30)
    assert next(watch).status == 1
    assert slow.health() == 1
    os.kill(slow.gateway.process.pid or 0, signal.SIGKILL)
    assert next(watch).status == 2  # the engine restarts
    error = refused(slow.chat) if slow.health() == 2 else None
    assert error is None or error.code() is Code.UNAVAILABLE
    assert next(watch).status == 1
    assert slow.chat(max_tokens=2).usage.completion_tokens == 2


def test_an_engine_that_dies_in_mid_stream_is_internal(slow: Site) -> None:
    call = slow.stream(max_tokens=400)
    next(call)
    next(call)
    os.kill(slow.gateway.process.pid or 0, signal.SIGKILL)
    error = refused(lambda: list(call))
    assert (error.code(), dict(error.trailing_metadata())["x-error-code"]) == (Code.INTERNAL, "engine_error")


def test_a_taken_port_is_said_before_the_model_is_loaded(fast: Site) -> None:
    assert fast.gateway.rpc is not None
    with pytest.raises(ResourceError, match="gRPC cannot listen"):
        rpc.check(ServeConfig(grpc_port=fast.gateway.rpc.port))


def test_tls_with_certificates_of_clients(bundle: Bundle, tmp_path: Path) -> None:
    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True)

    try:
        openssl("version")
    except OSError:
        pytest.skip("openssl is not installed (apt install openssl)")
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")  # fmt: skip
    key, cert = (tmp_path / "key.pem").read_bytes(), (tmp_path / "cert.pem").read_bytes()
    tls = {"tls_certificate": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem", "tls_client_ca": tmp_path / "cert.pem"}  # fmt: skip
    config = ServeConfig(engine=EngineConfig(name="fake"), grpc_port=0, grpc=tls)
    with running(config, bundle) as (gateway, url, api_key):
        assert gateway.rpc is not None
        target = f"127.0.0.1:{gateway.rpc.port}"
        with grpc.secure_channel(target, grpc.ssl_channel_credentials(cert, key, cert)) as channel:
            assert Site(gateway, url, api_key, channel).chat(max_tokens=3).usage.completion_tokens == 3
        for credentials in (grpc.ssl_channel_credentials(cert), None):  # no certificate of the client; no TLS
            channel = grpc.secure_channel(target, credentials) if credentials else grpc.insecure_channel(target)
            with channel:
                site = Site(gateway, url, api_key, channel)
                assert refused(site.chat).code() is Code.UNAVAILABLE


def test_sigterm_lets_accepted_calls_finish_refuses_new_ones_and_exits_with_0(bundle: Bundle, tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        from pathlib import Path
        from tuneloop import serve
        from tuneloop.engines import EngineConfig, FakeConfig
        fake = FakeConfig(token_delay_s=0.02, answer_ids=(70,) * 400)
        engine = EngineConfig(name="fake", max_running=2, fake=fake)
        serve.run(Path({str(bundle.path)!r}), serve.ServeConfig(engine=engine, port=0, grpc_port=0))
        """
    )
    env = os.environ | {"TUNELOOP_HOME": str(tmp_path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], text=True, env=env, **pipes) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        said = server.stdout.readline()
        while not re.search(r"gRPC at [\d.]+:\d+", said):
            line = server.stderr.readline()
            assert line, said
            said += line
        port, key = re.search(r"gRPC at [\d.]+:(\d+)", said), re.search(r"tl-[\w-]{43}", said)
        assert port
        assert key
        with grpc.insecure_channel(f"127.0.0.1:{port[1]}") as channel, ThreadPoolExecutor(4) as pool:
            stub, meta = TuneloopStub(channel), (("authorization", f"Bearer {key.group()}"),)
            health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(), timeout=60
            )  # must not hold it up
            ask = pb.ChatRequest(messages=ASK, max_tokens=60)
            calls = [stub.ChatStream(ask, metadata=meta) for _ in range(2)]
            for call in calls:
                next(call)
            whole = [pool.submit(stub.Chat, ask, metadata=meta) for _ in range(2)]  # these wait in the queue
            time.sleep(0.2)
            server.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            with grpc.insecure_channel(f"127.0.0.1:{port[1]}") as late:
                error = refused(lambda: TuneloopStub(late).Chat(ask, metadata=meta, timeout=5))
            assert error.code() in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)
            assert [list(call)[-1].choices[0].finish_reason for call in calls] == ["length"] * 2
            assert [w.result(20).usage.completion_tokens for w in whole] == [60] * 2
            assert server.wait(20) == 0


def test_the_generated_code_is_what_the_proto_gives(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="pip install 'tuneloop[dev]'")
    here = Path(rpc.__file__).parent
    for path in generate(tmp_path):
        assert (here / path.name).read_text() == path.read_text(), "python -m tuneloop.serve.rpc.generate"
