"""Write the tables of benchmarks/results into README.md and README.zh-CN.md, between their markers."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
Chosen = tuple[tuple[str, str, str], ...]
"""Bench, cases and metrics that the READMEs show; the result files hold the rest."""

TRAINING: Chosen = (
    ("train_staged", r".*", r"real tokens per second|peak memory"),
    ("expert_adapters", r".*", r".*"),
    ("distil", r".*", r"accuracy"),
    ("banking77", r".*", r".*"),
)
DATA: Chosen = (
    ("documents", r"web|receipts|speech", r"token F1|^character recall|word error rate"),
    ("personal", r"synth: (EMAIL|CARD|IBAN|PHONE)", r"recall, overlap|precision"),
    ("personal", r"speed", r"speed|rows"),
    ("neardup", r".*", r"^recall$|^precision$|^rows per second$|^peak memory$"),
    ("data_pipeline", r".*", r".*"),
    ("split", r".*", r"seconds|peak memory|rows"),
)
SERVE = (
    (
        r"gateway, ",
        (
            "throughput",
            "added closed loop p50",
            "added paced p50",
            "added paced p99",
            "added first token p50",
            "memory",
        ),
    ),
    (r"engines, ", ("speed", "first token p50", "inter-token p50", "p50", "p95", "p99")),
    (r"engines$", ("memory",)),
)
"""Cases of ``serve`` and the columns they are shown with."""


def table(path: Path) -> str:
    """One result file as Markdown: a row an arm and case, speed with its spread, memory."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    cells: dict[tuple[str, str], dict[str, dict]] = {}
    for row in rows:
        cells.setdefault((row["case"], row["arm"]), {})[row["metric"]] = row
    first = rows[0]
    versions = ", ".join(f"{k} {v}" for k, v in first["versions"].items())
    commands = dict.fromkeys(f"`{row['command']}` · {row['date']} · {row['commit']}  " for row in rows)
    out = [
        f"{first['hardware']} · {versions}  ",
        *commands,
        "",
        "| case | arm | real tokens/s (low–high) | × TRL tuned (low–high) | peak memory, GB |",
        "|---|---|---|---|---|",
    ]
    for (case, arm), found in cells.items():
        speed, memory = found.get("real tokens per second"), found["peak memory"]
        shown = f"{speed['median']:.0f} ({speed['low']:.0f}–{speed['high']:.0f})" if speed else "losses differ"
        ratio = f"{speed['ratio']:.2f} ({speed['ratio_low']:.2f}–{speed['ratio_high']:.2f})" if speed else "–"
        out.append(f"| {case} | {arm} | {shown} | {ratio} | {memory['median']:.1f} |")
    return "\n".join(out) + "\n"


def lines(chosen: Chosen) -> str:
    """The chosen lines of some benches, with the commands that make them."""
    out = ["| bench | case | arm | metric | median (low–high) | × |", "|---|---|---|---|---|---|"]
    commands: dict[str, str] = {}
    for bench, cases, metrics in chosen:
        for path in sorted(RESULTS.glob(f"{bench}[-_]*.jsonl")):
            for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
                if re.search(cases, row["case"]) and re.search(metrics, row["metric"]):
                    commands[row["command"]] = f"{row['hardware']} · {row['date']} · {row['commit']}"
                    ratio = f"{row['ratio']:.3g} to {row['ratio_to']}" if row.get("ratio") else ""
                    out.append(
                        f"| {bench} | {row['case']} | {row['arm']} | {row['metric']} | {_value(row)} | {ratio} |"
                    )
    return "\n".join([*out, "", *(f"`{command}` · {where}  " for command, where in commands.items())]) + "\n"


def serving() -> str:
    """The lines of ``serve``: a row a case and arm, a column a metric. An arm of another machine than most says so."""
    rows = [json.loads(line) for path in RESULTS.glob("serve_*.jsonl") for line in path.read_text("utf-8").splitlines()]
    out: list[str] = []
    for cases, metrics in SERVE:
        cells: dict[tuple[str, str], dict[str, str]] = {}
        chosen = [row for row in rows if re.search(cases, row["case"])]
        usual = Counter(row["hardware"] for row in chosen).most_common(1)[0][0] if chosen else ""
        for row in chosen:
            arm = row["arm"] if row["hardware"] == usual else f"{row['arm']} ({row['hardware']})"
            fast = row["metric"] in ("throughput", "speed")
            ratio = f", {short(row['ratio'])} × {row['ratio_to']}" if fast and row.get("ratio") else ""
            cells.setdefault((row["case"], arm), {})[row["metric"]] = _value(row, count=False) + ratio
        out += ["| case | arm | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 2) + "|"]
        for (case, arm), found in cells.items():
            skipped = [metric for metric in found if metric.startswith("skipped")]
            shown = skipped or [found.get(metric, "–") for metric in metrics]
            out.append(f"| {case} | {arm} | " + " | ".join(shown) + " |")
        out.append("")
    where = {f"`{row['command']}` · {row['hardware']} · {row['date']} · {row['commit']}  " for row in rows}
    return "\n".join([*out, *sorted(where)]) + "\n"


def short(value: float) -> str:
    """Three digits, and never an exponent."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _value(row: dict, *, count: bool = True) -> str:
    low, median, high = (short(row[key]) for key in ("low", "median", "high"))
    spread = f" ({low}–{high})" + (f", n = {row['n']}" if count else "") if row["low"] != row["high"] else ""
    unit = "" if row["unit"] == "share" else f" {row['unit']}"
    return f"{median}{unit}{spread}"


def fill(page: str, mark: str, text: str) -> str:
    """The page with the block between two markers renewed."""
    marks = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.S)
    return marks.sub(lambda found: found[1] + text + found[2], page)


def main() -> None:
    speed = "\n".join(table(path) for path in sorted(RESULTS.glob("train_cpu_*.jsonl")))
    training, data, served = speed + "\n" + lines(TRAINING), lines(DATA), serving()
    for name in ("README.md", "README.zh-CN.md"):
        path = ROOT / name
        page = path.read_text(encoding="utf-8")
        for mark, text in (("bench", training), ("bench-data", data), ("bench-serve", served)):
            page = fill(page, mark, text)
        path.write_text(page, encoding="utf-8")
        print(f"wrote the tables into {name}")


if __name__ == "__main__":
    main()
