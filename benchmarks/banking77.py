"""Banking77 whole: SmolLM2-135M on all 3,080 test rows, before and after LoRA on the full train split.

    python benchmarks/banking77.py [--data FOLDER] [--runs FOLDER]

The rows of the train split that stand in the test split too, exactly or nearly, are left out first. The three
epochs take about an hour on two cores of their own; the same command goes on where it was stopped. The time of training
is the sum of its optimizer steps, whatever stood between them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.harness import ROOT, line, step_seconds, write

PROJECT = ROOT / "examples" / "banking77" / "tuneloop.yaml"
CASE = "full train split, all test rows"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "intent_en")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="the run, to go on with it")
    options = parser.parse_args()
    train, test = (options.data / f"banking77_{split}.csv" for split in ("train", "test"))
    if not test.exists():
        sys.exit(f"error: {options.data}: no banking77_test.csv\nhint: --data FOLDER with PolyAI's Banking77 CSV files")
    import tuneloop

    result = tuneloop.run(
        PROJECT,
        f"data.sources.0.path={train.resolve()}",
        f"data.sources.1.path={test.resolve()}",
        "data.sources.0.rows=null",
        "evaluate.limit=null",
        "train.batch_size=16",
        "evaluate.latency_requests=4",
        "evaluate.metrics=[accuracy, accuracy_lenient, macro_f1, latency]",
        f"runs_folder={options.runs.resolve()}",
        until="compare",
    )
    lines = []

    def add(arm: str, metric: str, unit: str, values: tuple[float, float, float], n: int) -> None:
        row = line("banking77", CASE, arm, metric, unit, values, command="python benchmarks/banking77.py", versions={})
        lines.append(row | {"n": n})

    for label in ("base", "tuned"):
        found = result.stages[f"evaluate-{label}"].metrics
        for metric in ("accuracy", "accuracy_lenient", "macro_f1"):
            i = found[metric]
            add(label, f"{metric}, 95 % interval", "share", (i.low, i.value, i.high), i.n)
    steps = [row for row in result.run.dir("train").metrics() if "loss" in row]
    seconds = sum(step_seconds(steps))
    peak = max(row["memory_bytes"] for row in steps) / 1e9
    add("tuned", f"training, {len(steps)} steps", "min", (seconds / 60,) * 3, 1)
    add("tuned", "peak memory of training", "GB", (peak,) * 3, 1)
    print(write("banking77", lines))


if __name__ == "__main__":
    main()
