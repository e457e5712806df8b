"""Rows beyond a model's sliding window are refused before the first step, with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_odd import odd_folder
from tuneloop.errors import ModelError
from tuneloop.models import load_model, window_tokens
from tuneloop.train.stage import _require_within_window
from tuneloop.types import Example


def example(tokens: int) -> Example:
    return Example(f"row{tokens}", (5,) * tokens, (True,) * tokens)


def test_longer_rows_are_counted(tmp_path: Path) -> None:
    model = load_model(odd_folder("mistral", tmp_path), device="cpu")
    assert window_tokens(model) == 12
    _require_within_window(model, [example(12)], 0)
    with pytest.raises(
        ModelError, match=r"2 of 3 examples are longer than the 12 tokens .*the longest has 40"
    ) as refused:
        _require_within_window(model, [example(12), example(13), example(40)], 0)
    assert "train.max_length_tokens=12" in str(refused.value.hint)
    with pytest.raises(ModelError, match="longest has 13"):
        _require_within_window(model, [example(5)], 8)


def test_a_model_without_windows_takes_any_length(tmp_path: Path) -> None:
    model = load_model(odd_folder("granite", tmp_path), device="cpu")
    assert window_tokens(model) is None
    _require_within_window(model, [example(400)], 4)
