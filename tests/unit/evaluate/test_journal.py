from __future__ import annotations

import json
from pathlib import Path

import pytest

from tuneloop.evaluate.journal import Journal


def test_lines_come_back(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.jsonl", {"a": "1", "b": "2"}) as journal:
        journal.append({"id": "a", "key": "1", "text": "你好\nsecond line"})
    with Journal(tmp_path / "j.jsonl", {"a": "1", "b": "2"}) as journal:
        assert journal.rows == {"a": {"id": "a", "key": "1", "text": "你好\nsecond line"}}


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_half_written_last_line_is_removed_and_nothing_else(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "j.jsonl"
    first = json.dumps({"id": "a", "key": "1"}) + "\n"
    second = json.dumps({"id": "b", "key": "2", "text": "你好" * 5}, ensure_ascii=False).encode()
    path.write_bytes(first.encode() + second[:cut])
    with Journal(path, {"a": "1", "b": "2"}) as journal:
        assert list(journal.rows) == ["a"]
        journal.append({"id": "b", "key": "2"})
    assert path.read_text() == first + json.dumps({"id": "b", "key": "2"}) + "\n"


def test_an_answer_to_another_prompt_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text('{"id": "a", "key": "old"}\n{"id": "gone", "key": "1"}\n')
    with Journal(path, {"a": "new"}) as journal:
        assert journal.rows == {}


def test_a_damaged_line_in_the_middle_is_done_again_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"id": "a", "key": "1"}\n\xff\xfe{{{\n[]\n{"id": "b", "key": "2"}\n')
    with Journal(path, {"a": "1", "b": "2"}) as journal:
        assert sorted(journal.rows) == ["a", "b"]
    assert "2 lines are damaged" in capsys.readouterr().err
