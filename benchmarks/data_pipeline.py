"""The whole data stage on many rows: rows/s and the peak memory of all its processes.

    python benchmarks/data_pipeline.py                    1,000,000 rows, one process and two
    python benchmarks/data_pipeline.py --rows 5000000 --arms inline

Rows are generated (seeded) from the words of ../shared/data/corpus: questions and answers, a tenth of them Chinese, with
exact and edited duplicates, markup, mojibake, personal data and broken lines in stated shares.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import harness

BENCH = "data_pipeline"
SHARES = {"duplicate": 0.10, "edited": 0.05, "personal": 0.03, "markup": 0.02, "mojibake": 0.01, "broken": 0.002}
HAN = [chr(code) for code in range(0x4E00, 0x4E00 + 1500)]


def words() -> list[str]:
    """Every word of the English corpus, in its own frequency."""
    path = harness.ROOT.parent / "shared" / "data" / "corpus" / "wiki_en_demo.txt"
    if not path.exists():
        sys.exit(f"error: {path} is missing\nhint: the benchmark takes its words from there")
    return path.read_text(encoding="utf-8").split()


def rows(n: int, seed: int = 0) -> Iterator[str]:
    """Lines of a JSONL file."""
    pick = random.Random(seed)
    vocabulary = words()
    recent: list[tuple[str, str]] = []

    def text(low: int, high: int, chinese: bool) -> str:
        length = pick.randint(low, high)
        return "".join(pick.choices(HAN, k=2 * length)) if chinese else " ".join(pick.choices(vocabulary, k=length))

    for k in range(n):
        kind, chinese = pick.random(), pick.random() < 0.1
        ask, answer = text(8, 16, chinese), text(8, 24, chinese)
        if recent and kind < SHARES["duplicate"]:
            ask, answer = pick.choice(recent)
        elif recent and kind < 0.15:
            ask, answer = pick.choice(recent)
            answer = answer[:-3] + text(1, 1, chinese)
        elif kind < 0.18:
            ask += pick.choice(
                (f" mail k{k}@mail.example", f" ring 07700 9{k % 100000:05}", f" 手机 138{k % 10**8:08}")
            )
        elif kind < 0.20:
            ask = f"<p>{ask}&nbsp;</p>"
        elif kind < 0.21:
            answer += " cafÃ©"
        if len(recent) < 10_000:
            recent.append((ask, answer))
        else:
            recent[pick.randrange(10_000)] = (ask, answer)
        line = json.dumps({"question": ask, "answer": answer}, ensure_ascii=False)
        yield (line[: len(line) // 2] if pick.random() < SHARES["broken"] else line) + "\n"


def measure(path: Path, n: int, overrides: dict[str, object]) -> dict[str, float]:
    """Run ``tuneloop.data.run`` on a file in a process of its own."""
    code = (
        "import json,sys,time,pathlib\n"
        "from tuneloop.data import DataConfig, run\nfrom tuneloop.rundir import RunDir\n"
        "if __name__ == '__main__':\n"
        "    spec = json.loads(sys.argv[1]); out = RunDir(pathlib.Path(spec.pop('out'))); out.path.mkdir()\n"
        "    clock = time.perf_counter(); done = run(DataConfig(**spec), out)\n"
        "    print(json.dumps({'seconds': time.perf_counter() - clock, **done.counts}))\n"
    )
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        script = Path(folder) / "stage.py"
        script.write_text(code)
        spec = json.dumps({"sources": str(path), "out": f"{folder}/out", **overrides})
        process = subprocess.Popen([sys.executable, str(script), spec], stdout=subprocess.PIPE, text=True)
        peak = 0

        def watch() -> None:
            nonlocal peak
            while process.poll() is None:
                peak = max(peak, harness.tree_bytes(process.pid))
                time.sleep(0.2)

        watcher = threading.Thread(target=watch)
        watcher.start()
        out, _ = process.communicate()
        watcher.join()
        if process.returncode:
            sys.exit(f"error: the stage ended with {process.returncode}")
        found: dict[str, float] = json.loads(out.splitlines()[-1])
    assert found["kept"] + found["dropped"] == found["rows_in"] == n, found
    return {**found, "peak_bytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--arms", nargs="+", default=["inline", "processes"], choices=["inline", "processes", "ray"])
    parser.add_argument("--folder", type=Path, help="where the generated file and the run go (default: the system's)")
    args = parser.parse_args()
    import polars

    versions = {"python": platform.python_version(), "polars": polars.__version__}
    command = (
        f"python benchmarks/data_pipeline.py --rows {args.rows} --rounds {args.rounds} --arms {' '.join(args.arms)}"
    )
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "rows.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(rows(args.rows))
        print(f"{args.rows:,} rows, {path.stat().st_size / 1e6:,.0f} MB, {os.cpu_count()} cores", file=sys.stderr)
        found: dict[str, list[dict[str, float]]] = {arm: [] for arm in args.arms}
        for turn in range(args.rounds):
            for arm in args.arms:
                found[arm].append(measure(path, args.rows, {"executor": arm}))
                last = found[arm][-1]
                print(
                    f"  round {turn + 1} {arm}: {args.rows / last['seconds']:,.0f} rows/s, "
                    f"{last['peak_bytes'] / 1e9:.2f} GB, kept {last['kept']:,}",
                    file=sys.stderr,
                )
    case = f"{args.rows:,} rows"
    lines = [row for row in harness.read(BENCH) if row["case"] != case]
    for arm, runs in found.items():
        speeds = [args.rows / run["seconds"] for run in runs]
        shared = {"command": command, "versions": versions}
        lines.append(harness.line(BENCH, case, arm, "speed", "rows/s", speeds, **shared))
        lines.append(
            harness.line(BENCH, case, arm, "peak memory", "GB", [r["peak_bytes"] / 1e9 for r in runs], **shared)
        )
    print(harness.write(BENCH, lines))


if __name__ == "__main__":
    main()
