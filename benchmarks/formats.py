"""How fast rows are understood: row by row (the oracle) and a part at once, on one core.

    python benchmarks/formats.py            100,000 made-up rows of each format, 5 rounds

Rows per second of CPU time, because machines are shared; both arms take turns. Row by row ends with Python objects that
are thrown away; a part at once ends with the columns of the frame, so for nested formats it is the slower number of the
two. The gate: both say the same.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import harness

TEXT = "我的银行卡丢了，请尽快帮我挂失。请问为什么同一笔转账扣了我两次钱？"
PART_ROWS = 20_000
CASES: dict[str, Callable[[int], dict[str, Any]]] = {
    "pair": lambda i: {"prompt": f"{TEXT}{i}", "response": f"{TEXT}{TEXT}{i}"},
    "alpaca": lambda i: {"instruction": f"{TEXT}{i}", "input": "" if i % 2 else "x", "output": f"{TEXT}{i}"},
    "alpaca-history": lambda i: {"instruction": f"{TEXT}{i}", "input": "", "output": f"{TEXT}{i}", "history": []},
    "classification": lambda i: {"text": f"I lost my card yesterday, please block it {i}", "category": f"c{i % 77}"},
    "text": lambda i: {"text": f"{TEXT * 5}{i}"},
    "sharegpt": lambda i: {
        "conversations": [{"from": "human", "value": f"{TEXT}{i}"}, {"from": "gpt", "value": f"{i}{TEXT}"}]
    },
    "kto": lambda i: {"prompt": f"{TEXT}{i}", "completion": f"{TEXT}{i}", "label": i % 2 == 0},
    "preference": lambda i: {"prompt": f"{TEXT}{i}", "chosen": f"{TEXT}{i}", "rejected": f"{i}{TEXT}"},
}


def measure(case: str, rows: int, rounds: int) -> list[dict[str, Any]]:
    """Both arms of one format."""
    import polars as pl

    from tuneloop.data import DataConfig, formats
    from tuneloop.data.rows import RawFile, RawRow

    fields = [CASES[case](i) for i in range(rows)]
    head = RawFile.start(case, [RawRow(i + 1, "", row) for i, row in enumerate(fields[:1000])])
    detected = formats.detect(head, DataConfig(sources=case))
    parts = [fields[at : at + PART_ROWS] for at in range(0, rows, PART_ROWS)]

    def one_by_one() -> None:
        for row in fields:
            detected.parse(row)

    def at_once() -> None:
        for part in parts:
            formats.understand_all(part, detected)

    speeds: dict[str, list[float]] = {"row by row": [], "a part at once": []}
    for _ in range(rounds):
        for arm, run in zip(speeds, (one_by_one, at_once), strict=True):
            began = time.process_time()
            run()
            speeds[arm].append(rows / (time.process_time() - began))
    same = _equal(fields[:2000], detected, formats)
    ratios = [b / a for a, b in zip(*speeds.values(), strict=True)]
    told: dict[str, Any] = {
        "ok": same,
        "command": f"python benchmarks/formats.py --rows {rows} --rounds {rounds}",
        "versions": {"python": sys.version.split()[0], "polars": pl.__version__},
    }
    arm = "a part at once"
    return [
        harness.line("formats", case, "row by row", "rows understood", "rows/s", speeds["row by row"], **told),
        harness.line(
            "formats", case, arm, "rows understood", "rows/s", speeds[arm], against="row by row", ratios=ratios, **told
        ),
    ]


def _equal(rows: Sequence[dict[str, Any]], detected: Any, formats: Any) -> bool:
    frame = formats.understand_all(rows, detected)
    keys = ("role", "content", "reasoning")
    said = [[{key: turn[key] for key in keys} for turn in turns] for turns in frame["messages"].to_list()]
    parsed = [detected.parse(row) for row in rows]
    return bool(
        said == [[{key: turn[key] for key in keys} for turn in p.turns] for p in parsed]
        and frame["label"].to_list() == [p.label for p in parsed]
        and frame["desirable"].to_list() == [p.desirable for p in parsed]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    lines = []
    for case in CASES:
        lines += measure(case, options.rows, options.rounds)
        for row in lines[-2:]:
            print(f"{case:15s} {row['arm']:15s} {row['median']:12,.0f} rows/s ({row['low']:,.0f}-{row['high']:,.0f})")
    print(harness.write("formats", lines))


if __name__ == "__main__":
    main()
