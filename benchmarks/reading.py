"""Reading speed and memory of the data room's readers, beside the plain libraries and `datasets` in streaming mode.

    python benchmarks/reading.py [--rounds 3] [--rows 500000]

Rows a second from the start of reading (the libraries are imported) to the last row as a Python dictionary, and the peak
memory of the process and its children together (private pages and a share of the shared ones, looked at every 50 ms). An arm counts only where the number of rows and the number of characters in
their first column are those that were written. The plain arm does what a script would: ``json.loads`` a line,
``csv.DictReader``, ``json.load`` of the whole, ``polars.read_parquet``, ``openpyxl`` in read-only mode; it checks neither
encoding nor quotes and keeps no place, raw form or reason.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

WORDS = [
    "card",
    "lost",
    "money",
    "transfer",
    "please",
    "help",
    "银行卡",
    "丢失",
    "payment",
    "fee",
    "why",
    "is",
    "my",
    ",",
    '"',
    "£5",
]
CASES = ("rows.jsonl", "rows.csv", "rows.json", "rows.jsonl.gz", "rows.jsonl.zst", "rows.parquet", "rows.xlsx")
XLSX_SHARE = 10
"""The workbook holds a tenth of the rows: openpyxl takes a minute for a million."""


def prepare(folder: Path, count: int) -> dict[str, tuple[int, int]]:
    """Write every case; rows and characters of each."""
    import csv

    import openpyxl
    import polars as pl
    import zstandard

    draw = random.Random(0)
    rows = [{"text": " ".join(draw.choices(WORDS, k=14)), "label": f"c{i % 77}"} for i in range(count)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    (folder / "rows.jsonl").write_bytes(lines)
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress(lines, 6))
    (folder / "rows.jsonl.zst").write_bytes(zstandard.compress(lines))
    (folder / "rows.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    pl.DataFrame(rows).write_parquet(folder / "rows.parquet", row_group_size=100_000)
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("rows")
    few = rows[: count // XLSX_SHARE]
    for values in (["text", "label"], *([row["text"], row["label"]] for row in few)):
        sheet.append(values)
    book.save(folder / "rows.xlsx")
    whole, part = ((len(r), sum(len(row["text"]) for row in r)) for r in (rows, few))
    return {case: part if case == "rows.xlsx" else whole for case in CASES}


def tuneloop(path: Path) -> Iterator[Mapping[str, Any]]:
    from tuneloop.data.readers import ReadOptions, reader_of

    yield from (row.fields for row in reader_of(path)(path, path.name, ReadOptions()).rows)


def plain(path: Path) -> Iterable[Mapping[str, Any]]:
    """What a script would do."""
    import csv

    if path.name == "rows.parquet":
        import polars as pl

        return pl.read_parquet(path).iter_rows(named=True)
    if path.name == "rows.xlsx":
        import openpyxl

        cells = openpyxl.load_workbook(path, read_only=True).active.iter_rows(values_only=True)
        header = next(cells)
        return (dict(zip(header, row, strict=True)) for row in cells)
    if path.name == "rows.csv":
        return csv.DictReader(path.open(newline="", encoding="utf-8"))
    if path.name == "rows.json":
        return json.loads(path.read_text(encoding="utf-8"))
    if path.suffix == ".zst":
        import zstandard

        return map(json.loads, zstandard.open(path, "rt", encoding="utf-8"))
    if path.suffix == ".gz":
        return map(json.loads, gzip.open(path, "rt", encoding="utf-8"))
    return map(json.loads, path.open(encoding="utf-8"))


def datasets(path: Path) -> Iterable[Mapping[str, Any]]:
    from datasets import load_dataset

    kind = path.name.split(".")[1].replace("jsonl", "json")
    return load_dataset(kind, data_files=str(path), split="train", streaming=True)


ARMS = {"tuneloop": tuneloop, "plain": plain, "datasets, streaming": datasets}
IMPORTS = {
    "tuneloop": ["tuneloop.data.readers.text", "tuneloop.data.readers.columnar", "tuneloop.data.readers.isolated"],
    "plain": ["csv", "polars", "openpyxl", "zstandard"],
    "datasets, streaming": ["datasets"],
}
"""Imported before the clock starts."""


def measure(arm: str, path: Path) -> None:
    for module in IMPORTS[arm]:
        importlib.import_module(module)
    memory = harness.PeakMemory()
    clock = time.perf_counter()
    count = characters = 0
    for row in ARMS[arm](path):
        count += 1
        characters += len(row["text"])
    seconds = time.perf_counter() - clock
    found = {
        "rows": count,
        "characters": characters,
        "rows_per_s": count / seconds,
        "peak_mib": memory.stop() / 2**20,
    }
    print(json.dumps(found))


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in ("polars", "openpyxl", "zstandard", "datasets"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--rows", type=int, default=500_000)
    options.add_argument("--measure", nargs=2, metavar=("ARM", "FILE"), help="one measurement (used by the benchmark)")
    chosen = options.parse_args()
    if chosen.measure:
        measure(chosen.measure[0], Path(chosen.measure[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        lines = [line for case in compare(Path(folder), chosen.rows, chosen.rounds) for line in case]
    print(harness.write("reading", lines))


def compare(folder: Path, rows: int, rounds: int) -> Iterator[list[dict[str, Any]]]:
    truth, used = prepare(folder, rows), versions()
    command = f"python benchmarks/reading.py --rounds {rounds} --rows {rows}"
    for case in CASES:
        arms = [
            arm
            for arm in ARMS
            if arm != "datasets, streaming" or (used["datasets"] != "not installed" and case != "rows.xlsx")
        ]
        found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
        for _ in range(rounds):
            for arm in arms:
                own = [sys.executable, __file__, "--measure", arm, str(folder / case)]
                found[arm].append(
                    harness.once(harness.Arm(arm, own, {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}))
                )
        yield [line for arm in arms for line in results(case, arm, found, truth[case], command, used)]
        print(*(f"{case} {arm}: {harness.statistics.median(r['rows_per_s'] for r in runs):,.0f} rows/s" for arm, runs in found.items()),
              sep="\n", file=sys.stderr)  # fmt: skip


def results(
    case: str,
    arm: str,
    found: Mapping[str, list[dict[str, Any]]],
    truth: tuple[int, int],
    command: str,
    used: Mapping[str, str],
) -> Iterator[dict[str, Any]]:
    runs = found[arm]
    ok = all((run["rows"], run["characters"]) == truth for run in runs)
    for key, metric, unit in (("rows_per_s", "rows per second", "rows/s"), ("peak_mib", "peak memory", "MiB")):
        values = [run[key] for run in runs]
        ratios = [run[key] / beside[key] for run, beside in zip(runs, found["plain"], strict=True)]
        yield harness.line(
            "reading",
            case,
            arm,
            metric,
            unit,
            values,
            against="plain",
            ratios=ratios,
            ok=ok,
            command=command,
            versions=used,
        )


if __name__ == "__main__":
    main()
