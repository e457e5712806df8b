"""Limits, quotas, audit, deadlines, TLS, CORS and the metrics' port, through a running gateway."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import waiter
from tuneloop import serve
from tuneloop.engines import EngineConfig, FakeConfig, UpstreamConfig
from tuneloop.errors import ConfigError, TuneloopError
from tuneloop.models import Bundle, open_bundle
from tuneloop.serve import ServeConfig, keys
from tuneloop.serve.audit import AuditConfig
from tuneloop.serve.audit_chain import verify
from tuneloop.serve.keys import KeyLimits, KeyRing
from tuneloop.serve.limits import LimitsConfig
from tuneloop.serve.shield import ShieldConfig
from tuneloop.serve.tls import TlsConfig

httpx = pytest.importorskip("httpx", reason="pip install 'tuneloop[serve]'")
openai = pytest.importorskip("openai", reason="pip install 'tuneloop[dev]'")
pytest.importorskip("fastapi", reason="pip install 'tuneloop[serve]'")

from tuneloop.serve import gateway as gateway_module  # noqa: E402
from tuneloop.serve.check import running  # noqa: E402
from tuneloop.serve.gateway import Gateway  # noqa: E402

wait_for = waiter(10.0)
CHAT = "/v1/chat/completions"
SECRET = "a very private question"
ASK = {"messages": [{"role": "user", "content": SECRET}]}
SLOW = EngineConfig(name="fake", max_running=1, fake=FakeConfig(token_delay_s=0.05, answer_ids=(70,) * 400))


@pytest.fixture(scope="module")
def bundle(tiny: Callable[..., Path]) -> Bundle:
    return open_bundle(tiny("llama", "chatml"))


class Site:
    def __init__(self, gateway: Gateway, url: str, key: str) -> None:
        self.gateway, self.url, self.key = gateway, url, key
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=20)

    def ask(self, **more: Any) -> Any:
        return self.http.post(CHAT, json=ASK | more)


@contextmanager
def site(bundle: Bundle, **config: Any) -> Iterator[Site]:
    config.setdefault("engine", EngineConfig(name="fake"))
    with running(ServeConfig(model_name="bank", **config), bundle) as (gateway, url, key):
        made = Site(gateway, url, key)
        with made.http:
            yield made


def test_a_key_that_asks_too_often_gets_a_429_and_every_answer_says_how_it_stands(bundle: Bundle) -> None:
    with site(bundle, limits=LimitsConfig(requests_per_minute=3)) as here:
        replies = [here.ask(max_tokens=1) for _ in range(4)]
        assert [r.status_code for r in replies] == [200, 200, 200, 429]
        assert [r.headers["x-ratelimit-remaining-requests"] for r in replies] == ["2", "1", "0", "0"]
        assert replies[0].headers["x-ratelimit-limit-requests"] == "3"
        assert 15 <= int(replies[3].headers["retry-after"]) <= 20  # one request every 20 s
        assert replies[3].json()["error"]["code"] == "rate_limit_exceeded"
        assert here.http.get("/metrics").status_code == 200  # watching is not asking
        with pytest.raises(openai.RateLimitError):
            openai.OpenAI(base_url=f"{here.url}/v1", api_key=here.key, max_retries=0).models.list()


def test_tokens_are_reserved_at_acceptance_and_settled_by_what_was_made(bundle: Bundle) -> None:
    with site(bundle, limits=LimitsConfig(tokens_per_minute=1000)) as here:
        first = here.ask(max_tokens=900)
        used = first.json()["usage"]["total_tokens"]
        assert first.headers["x-ratelimit-limit-tokens"] == "1000"
        assert int(first.headers["x-ratelimit-remaining-tokens"]) <= 100  # at acceptance
        assert used < 100
        second = here.ask(max_tokens=900)  # would not fit beside what was reserved
        assert second.status_code == 200
        for _ in range(30):
            if (third := here.ask(max_tokens=900)).status_code == 429:
                break
        assert third.json()["error"]["code"] == "rate_limit_exceeded"
        assert int(third.headers["retry-after"]) >= 1
        too_much = here.ask(max_tokens=1100)
        assert (too_much.status_code, too_much.json()["error"]["code"]) == (429, "request_exceeds_limit")


def test_a_client_that_leaves_and_a_refused_request_give_their_tokens_back(bundle: Bundle) -> None:
    with site(bundle, engine=SLOW, max_queue=0, limits=LimitsConfig(tokens_per_day=1000)) as here:
        body = ASK | {"max_tokens": 300, "stream": True}
        with here.http.stream("POST", CHAT, json=body) as reply:
            lines = reply.iter_lines()  # held: it closes the stream when it goes
            next(lines)
            assert here.ask(max_tokens=300).json()["error"]["code"] == "queue_full"
        wait_for(lambda: here.gateway.process.in_flight == 0)
        account = here.gateway.limits._memory._accounts["key0"]
        wait_for(lambda: account.held == 0)
        assert 0 < account.day_tokens < 100  # the prompt and the few tokens that were made


def test_the_days_quota_is_a_429_until_midnight(bundle: Bundle) -> None:
    with site(bundle, limits=LimitsConfig(tokens_per_day=60)) as here:
        replies = [here.ask(max_tokens=4) for _ in range(8)]
        refused = next(r for r in replies if r.status_code == 429)
        assert refused.json()["error"]["code"] == "insufficient_quota"
        assert 0 < int(refused.headers["retry-after"]) <= 86400


def test_a_keys_own_limits_and_its_rotation_are_noticed_while_serving(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "KEYS_REFRESH_S", 0.05)
    key, old = keys.create("app", limits=KeyLimits(requests_per_minute=2))
    with site(bundle) as here:
        here.gateway._from_database = True  # ``running`` gives a ring of its own
        asyncio.run_coroutine_threadsafe(_keep_following(here.gateway), here.gateway.hub.loop)  # type: ignore[arg-type]

        def status(secret: str) -> int:
            return httpx.post(here.url + CHAT, json=ASK, headers={"Authorization": f"Bearer {secret}"}).status_code

        wait_for(lambda: here.gateway.ring.find(old) is not None)
        assert [status(old) for _ in range(3)] == [200, 200, 429]
        _, new = keys.rotate(key.id, grace_h=0)
        wait_for(lambda: here.gateway.ring.find(new) is not None)
        assert (status(old), status(new)) == (401, 429)  # a new secret is no new account
        keys.revoke(key.id)
        wait_for(lambda: here.gateway.ring.find(new) is None)
        assert status(new) == 401


async def _keep_following(gateway: Gateway) -> None:
    task = asyncio.ensure_future(gateway._follow_keys())
    await asyncio.sleep(8)
    task.cancel()


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_beyond_its_time_is_a_504_and_its_place_is_free(bundle: Bundle, stream: bool) -> None:
    with site(bundle, engine=SLOW, timeout_s=0.4) as here:
        begun = time.monotonic()
        reply = here.ask(max_tokens=300, stream=stream)
        assert 0.4 <= time.monotonic() - begun < 2  # the answer would have taken 15 s
        if stream:  # its status was sent with the first token
            last = [line for line in reply.text.splitlines() if line.startswith("data: ")][-1]
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
        else:
            assert (reply.status_code, reply.json()["error"]["code"]) == (504, "timeout")
        wait_for(lambda: here.gateway.process.in_flight == 0, 1.0)
        assert not here.gateway.hub._streams


def test_waiting_for_a_place_counts_towards_the_deadline(bundle: Bundle) -> None:
    with (
        site(bundle, engine=SLOW, timeout_s=0.5) as here,
        here.http.stream("POST", CHAT, json=ASK | {"max_tokens": 300, "stream": True}) as first,
    ):
        lines = first.iter_lines()
        next(lines)
        begun = time.monotonic()
        assert here.ask(max_tokens=300).status_code == 504  # half of its time it waited for the first one
        assert time.monotonic() - begun < 1.5


def test_the_audit_log_says_who_asked_what_when_and_never_the_words(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with site(bundle, audit=AuditConfig(path=path)) as here:
        asked = here.ask(max_tokens=3)
        httpx.get(f"{here.url}/v1/models?q={SECRET}", headers={"Authorization": "Bearer wrong"})
        here.http.get(f"/v1/{SECRET}")
        httpx.get(f"{here.url}/healthz")
        streamed = here.ask(max_tokens=2, stream=True)
    text = path.read_text()
    lines = [json.loads(line) for line in text.splitlines() if '"request_id"' in line]
    assert [(x["route"], x["status"], x["key_id"]) for x in lines] == [
        (f"POST {CHAT}", 200, "key0"),
        ("GET (none)", 401, ""),
        ("GET (none)", 404, "key0"),
        (f"POST {CHAT}", 200, "key0"),
    ]
    usage = asked.json()["usage"]
    assert lines[0]["request_id"] == asked.headers["x-request-id"]
    assert (lines[0]["prompt_tokens"], lines[0]["completion_tokens"]) == (usage["prompt_tokens"], 3)
    assert (lines[0]["finish"], lines[3]["finish"], lines[3]["completion_tokens"]) == (["length"], ["length"], 2)
    assert lines[3]["request_id"] == streamed.headers["x-request-id"]
    assert all(0 <= x["duration_s"] < 20 and x["time"] <= time.time() for x in lines)
    assert not any(word in text for word in (SECRET, "private", here.key))
    assert verify([path]).lines == len(lines) + 2


def test_bodies_are_in_the_audit_log_only_when_asked_for(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with site(bundle, audit=AuditConfig(path=path, bodies=True)) as here:
        answer = here.ask(max_tokens=3).json()["choices"][0]["message"]["content"]
    (line,) = [json.loads(x) for x in path.read_text().splitlines() if '"request_id"' in x]
    assert (line["asked"], line["answered"]) == ([SECRET], [answer])


@pytest.mark.parametrize(("on_failure", "statuses"), [("refuse", [200, 503, 200]), ("continue", [200, 200, 200])])
def test_a_full_disk_refuses_or_goes_on_as_configured(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_failure: str, statuses: list[int]
) -> None:
    path = tmp_path / "audit.jsonl"
    config = AuditConfig(path=path, on_failure=on_failure)  # type: ignore[arg-type]
    with site(bundle, audit=config) as here:
        real, log = os.write, here.gateway.audit
        assert log is not None

        def full(fd: int, data: bytes) -> int:
            if fd == log._fd:
                raise OSError(28, "No space left on device")
            return real(fd, data)

        with monkeypatch.context() as disk:
            disk.setattr("tuneloop.serve.audit.os.write", full)
            seen = [here.ask(max_tokens=1).status_code for _ in range(2)]
            assert here.http.get("/metrics").status_code == 200  # those who must see it still see
        seen.append(here.ask(max_tokens=1).status_code)
    assert seen == statuses
    written = sum('"request_id"' in line for line in path.read_text().splitlines())
    assert written + log.lost == 4  # refused ones too: nothing is missing without being counted
    assert (log.lost == 0) == (on_failure == "refuse")
    verify([path])


def test_sighup_opens_the_audit_log_again_after_rotation(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    script = textwrap.dedent(
        f"""
        from pathlib import Path
        from tuneloop import serve
        from tuneloop.engines import EngineConfig
        from tuneloop.serve.audit import AuditConfig
        audit = AuditConfig(path=Path({str(path)!r}))
        config = serve.ServeConfig(engine=EngineConfig(name="fake"), port=0, auth=False, audit=audit)
        serve.run(Path({str(bundle.path)!r}), config)
        """
    )
    env = os.environ | {"TUNELOOP_HOME": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, env=env) as server:
        assert server.stderr is not None
        said = ""
        while "try: curl" not in said:
            line = server.stderr.readline()
            assert line, said
            said += line
        url = said.partition(" at ")[2].partition("/v1")[0]
        wait_for(lambda: httpx.post(url + CHAT, json=ASK).status_code == 200)
        old = tmp_path / "audit.1"
        path.rename(old)
        server.send_signal(signal.SIGHUP)
        wait_for(path.exists)
        assert httpx.post(url + CHAT, json=ASK).status_code == 200
        server.send_signal(signal.SIGTERM)
        server.stderr.read()
        assert server.wait(20) == 0
    assert '"request_id"' in path.read_text()
    assert verify([old, path]).first_prev == "0" * 64


def test_the_first_key_is_told_on_standard_output_and_never_in_the_log(bundle: Bundle, tmp_path: Path) -> None:
    words = ["engine.name=fake", "port=0", "observe.logs=json", "observe.log_bodies=true"]
    command = [sys.executable, "-m", "tuneloop", "serve", str(bundle.path), *words]
    log = tmp_path / "stderr"
    with (
        log.open("wb") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as server,
    ):
        assert server.stdout is not None
        said, example = server.stdout.readline(), server.stdout.readline()
        key = said.removeprefix("API key (shown once): ").strip()
        assert keys.KeyRing(keys.list_keys()).find(key)
        assert f"Bearer {key}" in example
        url = example.split()[2].partition("/v1")[0]

        def asked() -> int:
            reply = httpx.post(url + CHAT, json=ASK, headers={"Authorization": f"Bearer {key}"})
            return int(reply.status_code)

        assert asked() == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
        assert server.stdout.read() == ""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert any(row.get("route") == CHAT for row in rows)
    assert key not in log.read_text()


def test_a_service_that_cannot_start_makes_no_key_that_nobody_sees(bundle: Bundle) -> None:
    broken = EngineConfig(name="upstream", upstream=UpstreamConfig(url="http://127.0.0.1:9"))
    with pytest.raises(TuneloopError):
        serve.run(bundle.path, ServeConfig(engine=broken, port=0))
    assert keys.list_keys() == []


def test_scripts_of_other_pages_are_refused_unless_their_origin_is_allowed(bundle: Bundle) -> None:
    asks = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    with site(bundle) as here:
        reply = httpx.options(here.url + CHAT, headers=asks)
        assert reply.status_code == 401
        assert not any(name.startswith("access-control") for name in reply.headers)
    with site(bundle, shield=ShieldConfig(cors_origins=("https://app.example",))) as here:
        reply = httpx.options(here.url + CHAT, headers=asks)
        assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (200, "https://app.example")
        reply = httpx.options(here.url + CHAT, headers=asks | {"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in reply.headers
        reply = here.http.post(CHAT, json=ASK | {"max_tokens": 1}, headers={"Origin": "https://app.example"})
        assert reply.headers["access-control-allow-origin"] == "https://app.example"
        assert httpx.post(here.url + CHAT, json=ASK, headers={"Origin": "https://app.example"}).status_code == 401


def test_metrics_on_a_port_of_their_own_are_nowhere_else(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from tuneloop.serve import check

    made: list[Any] = []
    real = check.Server
    monkeypatch.setattr(check, "Server", lambda gateway: made.append(real(gateway)) or made[-1])
    with site(bundle, metrics_port=0) as here:
        port = made[0].metrics_listener.getsockname()[1]
        own = f"http://127.0.0.1:{port}"
        assert "tuneloop_ready" in httpx.get(f"{own}/metrics").text
        assert httpx.get(f"{own}/readyz").status_code == 200
        for path in ("/v1/models", CHAT, "/openapi.json", "/", "/metrics/x"):
            assert httpx.get(own + path, headers=here.http.headers).status_code == 404
        assert here.http.get("/metrics").status_code == 404
        assert httpx.get(f"{here.url}/metrics").status_code == 401
        assert here.ask(max_tokens=1).status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{own}/metrics")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed (Debian package openssl)")
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "cert.pem", folder / "key.pem"
    command = [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subprocess.run(
        [*command, "-keyout", key, "-out", made, "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )
    key.chmod(0o600)
    return made, key


def test_tls_serves_1_2_and_above_to_those_who_trust_the_certificate(
    bundle: Bundle, certificate: tuple[Path, Path]
) -> None:
    with site(bundle, tls=TlsConfig(certificate=certificate[0], key=certificate[1])) as here:
        url = here.url.replace("http:", "https:")
        trust = ssl.create_default_context(cafile=str(certificate[0]))
        assert httpx.get(f"{url}/readyz", verify=trust).status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/readyz")  # nobody has told this client to trust it
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"{here.url}/readyz")  # plain HTTP
        old = ssl.create_default_context(cafile=str(certificate[0]))
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/readyz", verify=old)


def test_a_private_key_that_everybody_can_read_is_refused(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    from tuneloop.serve import tls

    made, key = certificate
    open_key, other = tmp_path / "key.pem", tmp_path / "other.pem"
    open_key.write_bytes(key.read_bytes())
    open_key.chmod(0o644)
    other.write_bytes(made.read_bytes())
    other.chmod(0o600)
    assert tls.context(TlsConfig(certificate=made, key=key)) is not None
    for bad, said in ((open_key, "every user"), (other, "cannot be used"), (tmp_path / "none", "no such file")):
        with pytest.raises(ConfigError, match=said) as caught:
            tls.context(TlsConfig(certificate=made, key=bad))
        assert "hint:" in str(caught.value)
    with pytest.raises(ValueError, match="both certificate and key"):
        TlsConfig(certificate=made)


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/redoc"])
def test_the_document_is_for_admins_and_pages_that_load_from_elsewhere_do_not_exist(bundle: Bundle, path: str) -> None:
    with site(bundle) as here:
        assert here.http.get(path).status_code == (403 if path == "/openapi.json" else 404)
        here.gateway.ring = KeyRing.of("root", scopes=("admin",))
        reply = httpx.get(here.url + path, headers={"Authorization": "Bearer root"})
        assert reply.status_code == (200 if path == "/openapi.json" else 404)
        batch = KeyRing.of("b", scopes=("batch",))
        here.gateway.ring = batch
        asked = {
            p: httpx.get(here.url + p, headers={"Authorization": "Bearer b"}).status_code
            for p in ("/v1/batches", "/v1/files", "/v1/models")
        }
        assert asked["/v1/models"] == 403
        assert asked["/v1/batches"] != 403 != asked["/v1/files"]


@pytest.mark.parametrize("change", [{"stop": None}, {"user": None, "logit_bias": None}])
def test_null_asks_for_nothing(bundle: Bundle, change: dict[str, Any]) -> None:
    with site(bundle) as here:
        assert here.ask(max_tokens=1, **change).status_code == 200


@pytest.mark.parametrize("token", ["", "x", "-1", "١", "9" * 5000])
def test_a_bias_for_what_is_no_token_id_is_a_400(bundle: Bundle, token: str) -> None:
    with site(bundle) as here:
        reply = here.ask(logit_bias={token: 1})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "logit_bias")
