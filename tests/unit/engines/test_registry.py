from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from tests.tiny_gguf import tiny_gguf
from tuneloop.engines import EngineConfig, UpstreamConfig, choose, create, names
from tuneloop.errors import ConfigError, ModelError
from tuneloop.models import Bundle, open_bundle


@pytest.fixture
def gguf(tmp_path: Path) -> Bundle:
    return open_bundle(tiny_gguf(tmp_path / "tiny"))


def installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in names else None)


def test_the_built_in_engines_are_known() -> None:
    assert {"fake", "llamacpp", "openvino", "transformers", "upstream"} <= set(names())


def test_auto_takes_llamacpp_for_gguf_and_says_that_openvino_is_faster(
    gguf: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, "xllamacpp", "openvino_genai")
    name, why = choose(EngineConfig(), gguf)
    assert name == "llamacpp"
    assert "engine.name: openvino makes two to four times the tokens with many" in why
    installed(monkeypatch, "xllamacpp")
    assert "tuneloop[openvino]" in choose(EngineConfig(), gguf)[1]


def test_auto_takes_openvino_where_only_that_is_installed_and_can_read_the_file(
    gguf: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, "openvino_genai")
    assert choose(EngineConfig(), gguf)[0] == "openvino"
    monkeypatch.setattr("tuneloop.engines.openvino.ARCHITECTURES", frozenset({"qwen2"}))
    assert choose(EngineConfig(), gguf)[0] == "transformers"


def test_auto_says_what_to_install_for_gguf(gguf: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch)
    name, why = choose(EngineConfig(), gguf)
    assert name == "transformers"
    assert "tuneloop[llamacpp]" in why


def test_auto_takes_transformers_for_everything_else(tmp_path: Path) -> None:
    assert choose(EngineConfig(), Bundle(tmp_path, "adapter"))[0] == "transformers"


def test_auto_takes_the_server_whose_address_is_given(tmp_path: Path) -> None:
    config = EngineConfig(upstream=UpstreamConfig(url="http://127.0.0.1:1"))
    assert choose(config, Bundle(tmp_path, "model"))[0] == "upstream"


@pytest.mark.parametrize(("vllm", "said"), [("/opt/bin/vllm", "[/opt/bin/vllm, serve,"), (None, "with vLLM installed")])
def test_auto_says_what_would_be_best_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vllm: str | None, said: str
) -> None:
    monkeypatch.setattr("tuneloop.engines.registry.has_gpu", lambda: True)
    monkeypatch.setattr(shutil, "which", lambda _: vllm)
    name, why = choose(EngineConfig(), Bundle(tmp_path, "model"))
    assert name == "transformers"
    assert said in why


def test_a_misspelt_name_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'transformers'"):
        create(EngineConfig(name="transformer"), None)


@pytest.mark.parametrize("server", ["vllm", "sglang"])
def test_the_name_of_a_server_leads_to_upstream(server: str) -> None:
    with pytest.raises(ConfigError, match="vLLM, SGLang, llama-server and other servers are asked by upstream"):
        create(EngineConfig(name=server), None)


def test_llamacpp_refuses_what_is_not_gguf(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="pip install 'tuneloop[llamacpp]'")
    with pytest.raises(ModelError, match="reads GGUF"):
        create(EngineConfig(name="llamacpp"), Bundle(tmp_path, "model"))
