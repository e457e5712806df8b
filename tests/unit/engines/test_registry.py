from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tuneloop.engines import EngineConfig, choose, create, names
from tuneloop.errors import ConfigError, ModelError
from tuneloop.models import Bundle


def test_the_built_in_engines_are_known() -> None:
    assert {"fake", "llamacpp", "transformers"} <= set(names())


def test_auto_takes_llamacpp_for_gguf_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf, model = Bundle(tmp_path, "gguf"), Bundle(tmp_path, "adapter")
    assert choose(EngineConfig(), model)[0] == "transformers"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    assert choose(EngineConfig(), gguf) == ("llamacpp", "the bundle is GGUF")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    name, reason = choose(EngineConfig(), gguf)
    assert name == "transformers"
    assert "tuneloop[llamacpp]" in reason


def test_a_misspelt_name_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'transformers'"):
        create(EngineConfig(name="transformer"), None)


def test_llamacpp_refuses_what_is_not_gguf(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="pip install 'tuneloop[llamacpp]'")
    with pytest.raises(ModelError, match="reads GGUF"):
        create(EngineConfig(name="llamacpp"), Bundle(tmp_path, "model"))
