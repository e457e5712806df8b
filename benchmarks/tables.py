"""Write the tables of benchmarks/results into README.md and README.zh-CN.md, between the ``bench`` markers."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARKS = re.compile(r"(<!-- bench -->\n).*?(<!-- /bench -->)", re.S)


def table(path: Path) -> str:
    """One result file as Markdown: a row an arm and case, speed with its spread, memory."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    cells: dict[tuple[str, str], dict[str, dict]] = {}
    for row in rows:
        cells.setdefault((row["case"], row["arm"]), {})[row["metric"]] = row
    first = rows[0]
    versions = ", ".join(f"{k} {v}" for k, v in first["versions"].items())
    out = [
        f"`{first['command'].split(' --cases')[0]}` · {first['hardware']} · {versions} · {first['date']} · {first['commit']}",
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


def main() -> None:
    text = "\n".join(table(path) for path in sorted((ROOT / "benchmarks" / "results").glob("train_cpu_*.jsonl")))
    for name in ("README.md", "README.zh-CN.md"):
        path = ROOT / name
        path.write_text(MARKS.sub(lambda m: m[1] + text + m[2], path.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"wrote the tables into {name}")


if __name__ == "__main__":
    main()
