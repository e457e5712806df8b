from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from tuneloop import serve
from tuneloop.engines import EngineConfig
from tuneloop.models import open_bundle

FAKE = EngineConfig(name="fake")


def said(tiny: Callable[..., Path], text: str, **more: str) -> str:
    sink = io.StringIO()
    serve.chat(FAKE, open_bundle(tiny("llama", "chatml")), source=io.StringIO(text), sink=sink, **more)  # type: ignore[arg-type]
    return sink.getvalue()


def test_each_line_of_a_pipe_gets_an_answer(tiny: Callable[..., Path]) -> None:
    assert said(tiny, "one\n\ntwo\n", system="Be brief.") == "system\nBe brief.\nsystem\nBe brief.\n"


def test_exit_leaves_and_new_forgets(tiny: Callable[..., Path]) -> None:
    assert said(tiny, "one\n/exit\ntwo\n").count("system") == 1
    assert said(tiny, "one\n/new\ntwo\n").count("system") == 2
