"""Real data sets are understood without a declaration, every row of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuneloop.data import DataConfig, sources
from tuneloop.data.formats import detect, understand_all

SHARED = Path(__file__).parents[5] / "shared" / "data"
KINDS = {
    "intent_en/banking77_train.csv": "classification",
    "intent_en/banking77_test.csv": "classification",
    "medical_zh/huatuo_1200.jsonl": "alpaca",
    "finance_zh/disc_task.json": "alpaca",
    "finance_zh/disc_computing.json": "alpaca",
    "finance_zh/disc_consulting.json": "alpaca",
    "instruct/identity.json": "alpaca",
    "instruct/belle_zh_seed_tasks.json": "alpaca",
    "instruct/glaive_toolcall_zh_demo.json": "sharegpt",
    "gsm8k/train_3000.jsonl": "pair",
    "dialogue/crosswoz_150.json": "messages",
    "preference/dpo_zh_demo.json": "preference",
    "preference/dpo_en_demo.json": "preference",
    "preference/dpo_zh_500.jsonl": "preference",
    "preference/kto_en_demo.json": "kto",
    "safety/cold_zh_train_10000.csv": "classification",
    "safety/cold_zh_dev.csv": "classification",
    "safety/davidson_en_10000.csv": "classification",
    "pii/presidio_synth_dev.json": "annotation",
    "corpus/c4_en_demo.jsonl": "text",
    "corpus/wiki_en_demo.txt": "text",
}


@pytest.mark.parametrize("name", KINDS)
def test_a_real_file_is_understood_without_a_declaration(name: str) -> None:
    if not (SHARED / name).exists():
        pytest.skip(f"../shared/data/{name} is not on this machine")
    config = DataConfig(sources=str(SHARED / name))
    raw = sources.read(config, sources.files(config)[0])
    detected = detect(raw, config)
    meaning = understand_all([row.fields for row in raw.rows if row.problem is None], detected)
    assert detected.kind == KINDS[name]
    assert meaning["problem"].drop_nulls().to_list() == []
    assert (meaning["messages"].list.len() > 0).all()


def test_the_calls_of_a_real_file_are_all_read() -> None:
    """216 turns ``function_call``, 218 ``observation``, by a count of the file's text."""
    path = SHARED / "instruct/glaive_toolcall_zh_demo.json"
    if not path.exists():
        pytest.skip("../shared/data/instruct/glaive_toolcall_zh_demo.json is not on this machine")
    config = DataConfig(sources=str(path))
    raw = sources.read(config, sources.files(config)[0])
    turns = understand_all([row.fields for row in raw.rows], detect(raw, config))["messages"].explode().struct.unnest()
    assert turns["tool_calls"].drop_nulls().str.json_path_match("$[0].name").is_not_null().sum() == 216
    assert (turns["role"] == "tool").sum() == 218
