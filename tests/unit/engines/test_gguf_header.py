from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_gguf import CONTEXT, tiny_gguf
from tuneloop.engines.gguf_header import context_length
from tuneloop.errors import ModelError


def test_the_context_is_found_behind_strings_and_arrays(tmp_path: Path) -> None:
    assert context_length(tiny_gguf(tmp_path / "m") / "model.f32.gguf") == CONTEXT


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"GGUF", b"GGUF" + b"\xff" * 40, b"GGUF\x03" + b"\0" * 10])
def test_anything_else_is_an_error_with_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(ModelError, match="GGUF"):
        context_length(tmp_path / "x.gguf")


def test_every_cut_of_a_real_file_is_an_error_not_a_crash(tmp_path: Path) -> None:
    whole = (tiny_gguf(tmp_path / "m") / "model.f32.gguf").read_bytes()[:200]
    for size in range(0, 120, 7):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(ModelError):
            context_length(tmp_path / "cut.gguf")
