from __future__ import annotations

import json
from pathlib import Path

from tests.tiny import tiny_tokenizer
from tuneloop.chat import Chat
from tuneloop.train import tokenise
from tuneloop.types import Message, Record


def test_a_row_that_cannot_be_learned_is_counted_and_does_not_stop_the_training(tmp_path: Path) -> None:
    rows = [
        Record("good", (Message("user", "hi"), Message("assistant", "yes"))),
        Record("mute", (Message("user", "hi"),)),
        Record("blank", (Message("user", "hi"), Message("assistant", " "))),
        Record("long", (Message("user", "hi " * 300), Message("assistant", "yes"))),
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(r.to_json()) + "\n" for r in rows), encoding="utf-8")
    examples, left_out = tokenise(Chat(tiny_tokenizer("chatml")), tmp_path, "train", 100)
    assert [e.id for e in examples] == ["good"]
    assert left_out == {
        "no assistant message to learn from": 1,
        "assistant message 1 is empty": 1,
        "longer than 100 tokens": 1,
    }
