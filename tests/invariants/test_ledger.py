"""Promise 1: rows in = rows kept + rows dropped, each drop with a reason, for 1,000 damaged files.

What the files hold is counted here by other means than the readers': physical lines and ``json``.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuneloop.data import DataConfig, read_records, run
from tuneloop.data.readers.encoding import decode
from tuneloop.errors import DataError
from tuneloop.progress import set_quiet
from tuneloop.rundir import RunDir
from tuneloop.types import SPLITS

SHARED = Path(__file__).parents[3] / "shared" / "data"
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Thousands of small synced files: not a job for a disk."""
FUZZ = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterable[None]:
    set_quiet(True)
    yield
    set_quiet(False)


WORDS = [
    "card",
    "lost",
    'say "no"',
    "a,b",
    "x;y",
    "two\nlines",
    "银行卡",
    "丢失",
    "café",
    "£5",
    "<b>new</b>",
    "07700 900123",
    "\x00",
    "{",
    "[",
    "\\",
    "😀",
    "",
]
TEXT = st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join) | st.text(max_size=8)
LABEL = st.sampled_from(["lost", "fee", "login", "", "疑问", 'a"b'])
ENCODINGS = st.sampled_from(
    ["utf-8"] * 6 + ["utf-8-sig", "gb18030", "cp1252", "cp932", "utf-16", "utf-16-le", "utf-32"]
)
INSERTS = st.sampled_from(
    [
        b'"',
        b'""',
        b",",
        b"\n",
        b"\r",
        b"\r\n",
        b"\x00",
        b"\xff",
        b"\xe9",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b"\\",
        b"\xef\xbb\xbf",
        b"\n\n",
    ]
)


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A few cuts and insertions at relative places, most of them below the header."""
    cuts = draw(
        st.lists(
            st.tuples(
                st.floats(0.2, 1) | st.floats(0.4, 1) | st.floats(0, 0.2),
                st.integers(0, 6),
                INSERTS | st.binary(max_size=4),
            ),
            max_size=4,
        )
    )

    def apply(data: bytes) -> bytes:
        for place, length, insert in cuts:
            at = int(place * len(data))
            data = data[:at] + insert + data[at + length :]
        return data

    return apply


@st.composite
def csv_files(draw: st.DrawFn) -> bytes:
    """A CSV file as some program would write it, damaged."""
    rows: list[list[str]] = [list(row) for row in draw(st.lists(st.tuples(TEXT, LABEL), min_size=1, max_size=8))]
    for row in rows:
        row[:] = [*row, "", "extra"][: draw(st.sampled_from([2, 2, 2, 2, 1, 3, 4]))]
    buffer = io.StringIO()
    ends, mark = draw(st.sampled_from(["\n", "\r\n", "\r"])), draw(st.sampled_from([",", ";", "\t"]))
    csv.writer(buffer, lineterminator=ends, delimiter=mark).writerows([["text", "label"], *rows])
    return draw(damage())(buffer.getvalue().encode(draw(ENCODINGS), "replace"))


VALUES = TEXT | st.none() | st.integers() | st.booleans() | st.lists(TEXT, max_size=2) | st.floats()
TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool", "narrator"]), "content": VALUES}
    ),
    max_size=4,
)
OBJECTS = (
    st.fixed_dictionaries({"text": TEXT, "label": LABEL})
    | st.fixed_dictionaries({"text": VALUES}, optional={"label": VALUES, "surrogate": st.just("\ud83d")})
    | st.fixed_dictionaries({"messages": TURNS | VALUES})
    | st.fixed_dictionaries({"instruction": VALUES, "output": VALUES}, optional={"history": VALUES, "input": VALUES})
)


@st.composite
def jsonl_files(draw: st.DrawFn) -> bytes:
    rows = draw(st.lists(OBJECTS, min_size=1, max_size=8))
    lines = [json.dumps(row, ensure_ascii=draw(st.booleans())) for row in rows]
    whole = draw(st.sampled_from(["\n", "\r\n"])).join(lines)
    return draw(damage())(whole.encode(draw(ENCODINGS), "replace"))


@st.composite
def json_files(draw: st.DrawFn) -> bytes:
    rows = draw(st.lists(OBJECTS, min_size=1, max_size=8))
    whole = json.dumps(rows, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 2])))
    return draw(damage())(whole.encode(draw(ENCODINGS), "replace"))


def account(name: str, data: bytes, **config: Any) -> pl.DataFrame | None:
    """Run the stage on one file and check its books; the ledger, or None for a file that was refused as a whole."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        path, out = Path(folder) / name, RunDir(Path(folder) / "out")
        path.write_bytes(data)
        out.path.mkdir()
        refused = None
        if zlib.crc32(data) % 4:  # three quarters of the files without what has tests of its own and takes time
            config = {"steps": ["repair", "empty", "truncated", "exact_duplicates"], "near_leaks": None, **config}
        try:
            artifact = run(DataConfig(sources=path, **config), out)
        except DataError as error:
            refused = error
        if refused:
            assert refused.where
            assert refused.hint
            assert len(str(refused).splitlines()) == 2, str(refused)
            if not (out / "ledger.parquet").exists():
                return None
            assert "left to train on" in refused.what
            return pl.read_parquet(out / "ledger.parquet")
        ledger = pl.read_parquet(out / "ledger.parquet")
        counts = artifact.counts
        assert counts["rows_in"] == counts["kept"] + counts["dropped"] == ledger.height
        assert counts["kept"] == sum(counts[split] for split in SPLITS)
        assert sum(artifact.dropped.values()) == counts["dropped"]
        assert ledger["id"].n_unique() == ledger.height
        for split in SPLITS:
            records = read_records(out.path, split)
            assert sorted(r.id for r in records) == sorted(ledger.filter(pl.col("fate") == split)["id"])
            assert all(r.messages[-1].role == "assistant" and r.answer for r in records)
        gone = ledger.filter(pl.col("fate") == "dropped")
        assert gone["step"].null_count() == gone["reason"].null_count() == 0
        return ledger


def physical(data: bytes, name: str) -> list[str]:
    """The lines of the file that hold anything, by strict UTF-8 where that is what it is."""
    try:
        lines = re.split(r"\r\n|\r|\n", data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        lines = decode(data, name).lines
    else:
        if b"\x00" in data:  # may be UTF-16 or UTF-32
            lines = decode(data, name).lines
    return [line for line in lines if line.strip()]


def raw_lines(ledger: pl.DataFrame) -> list[str]:
    return [line for raw in ledger["raw"] for line in raw.split("\n") if line.strip()]


def fuzz(files: st.SearchStrategy[bytes], number: int, check: Callable[[bytes], bool], known: Iterable[bytes]) -> None:
    """Check ``number`` files and the known ones; most must have got as far as a ledger."""
    seen: Counter[bool] = Counter()

    @settings(FUZZ, max_examples=number)
    @given(files)
    def each(data: bytes) -> None:
        seen[check(data)] += 1

    for data in known:
        check(data)
    each()
    assert seen.total() >= number
    assert seen[True] > seen.total() / 2


def every_line_is_in_exactly_one_row(data: bytes) -> bool:
    ledger = account("rows.csv", data)
    if ledger is None:
        return False
    lines, seen = physical(data, "rows.csv"), raw_lines(ledger)
    header = len(lines) - len(seen)
    assert header >= 1
    assert seen == lines[header:]
    assert header == 1 or '"' in lines[0]  # only a quoted header spans lines
    return True


def test_every_line_of_200_damaged_csv_files_is_in_exactly_one_row() -> None:
    known = [b'text,label\n"open,a\nb,c\n"d,e\n', b'text,label\n"a\n\n\nb",c\n', b'"text\nmore",label\nb,c\n']
    fuzz(csv_files(), 200, every_line_is_in_exactly_one_row, known)


def every_line_is_a_row(data: bytes) -> bool:
    ledger = account("rows.jsonl", data)
    if ledger is not None:
        assert ledger["raw"].to_list() == physical(data, "rows.jsonl")
    return ledger is not None


def test_every_line_of_200_damaged_jsonl_files_is_a_row() -> None:
    known = [
        b'{"text": "\\ud83d", "label": "x"}\n{"text": "a", "label": "x"}\n',
        b"[" * 5000 + b'\n{"text": "a", "label": "b"}',
    ]
    fuzz(jsonl_files(), 200, every_line_is_a_row, known)


def no_object_is_lost(data: bytes) -> bool:
    ledger = account("rows.json", data)
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError):
        return ledger is not None
    if isinstance(whole, list) and ledger is not None:
        assert ledger.height == len(whole)
    return ledger is not None


def test_no_object_of_100_damaged_json_arrays_is_lost() -> None:
    fuzz(json_files(), 100, no_object_is_lost, [b'[{"text":"a","label":"b"},{"text":"a","label":"b"}'])


REAL = {
    "intent_en/banking77_train.csv": 10_003,
    "intent_en/banking77_test.csv": 3_080,
    "medical_zh/huatuo_1200.jsonl": 1_200,
    "finance_zh/disc_computing.json": 100,
    "finance_zh/disc_consulting.json": 100,
    "instruct/glaive_toolcall_zh_demo.json": 300,
    "instruct/identity.json": 91,
    "instruct/belle_zh_seed_tasks.json": 175,
    "gsm8k/train_3000.jsonl": 3_000,
    "dialogue/crosswoz_150.json": 150,
    "preference/dpo_zh_500.jsonl": 500,
    "preference/kto_en_demo.json": 300,
    "safety/cold_zh_dev.csv": 6_431,
    "safety/davidson_en_10000.csv": 10_000,
}
"""Rows as the README of the shared data counts them."""


@pytest.mark.parametrize("name", REAL)
def test_the_ledger_of_a_real_file_holds_the_rows_its_readme_counts(name: str) -> None:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"../shared/data/{name} is not on this machine")
    ledger = account(path.name, path.read_bytes())
    assert ledger is not None
    assert ledger.height == REAL[name]
    assert ledger.filter(pl.col("fate") != "dropped").height > 0.4 * ledger.height
