from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest

from tuneloop.errors import ConfigError
from tuneloop.evaluate import names, register, registry
from tuneloop.types import Record


def polite(record: Record, answer: str) -> float:
    return float("please" in answer)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    registry._metrics.clear()


def test_a_plain_function_becomes_a_metric() -> None:
    register("polite", polite)
    assert "polite" in names()
    assert registry.find("polite").score is not None


def test_a_name_is_given_once() -> None:
    register("polite", polite)
    with pytest.raises(ValueError, match="already"):
        register("polite", polite)


def test_a_misspelt_metric_is_corrected() -> None:
    with pytest.raises(ConfigError, match="accuracyy") as caught:
        registry.check(("accuracyy",))
    assert caught.value.hint == "did you mean 'accuracy'?"


def test_an_installed_package_brings_a_scorer(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("polite", f"{__name__}:polite", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    assert "polite" in names()
    assert registry.find("polite").score is not None
