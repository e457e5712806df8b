"""Speed of a stage that trains the last layers, with what the frozen layers give computed once, beside the same without.

    python benchmarks/train_staged.py [--rounds 3] [--steps 8] [--last-layers 8] [--data FOLDER]

SmolLM2-135M in float32, Banking77 rows, batches of 8, two passes over the rows. Real tokens a second: the tokens of the
rows as if each stood alone, over the wall time of the optimizer steps of the second pass (the first pays for programs and
buffers of every shape, in both arms), and over the processor time of the same steps, which other work on the machine
disturbs less. The pass that fills the cache is reported beside it. A speed is only
reported where the losses of all steps agree with the uncached run (float32: 1e-5 at the first step, 2e-3 after that,
where rounding has been amplified by training; tests/invariants/test_cached_activations.py holds tiny models to 1e-5).
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

import tuneloop  # noqa: F401  before torch: it says how OpenMP's threads wait

BATCH = 8
FIRST_STEP, LATER_STEPS = 1e-5, 2e-3
SHORT = "You sort messages of a bank. Answer with the intent of the message."
LONG = "Answer with one of these intents: {labels}"
CASES = {
    "short": ("freeze", SHORT),
    "long": ("freeze", LONG),
    "lora-short": ("lora", SHORT),
    "lora-long": ("lora", LONG),
}
"""What trains in the last layers (all their weights, or adapters on them), and the system prompt."""
CACHED, UNCACHED = "cached activations", "uncached"


def prepare(case: str, data: Path, model: Path, folder: Path, steps: int) -> None:
    """Write token ids with masks of one pass, for both arms."""
    from tuneloop.chat import Chat
    from tuneloop.models import load_tokenizer
    from tuneloop.types import Message, Record

    with (data / "banking77_train.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = ", ".join(sorted({r["category"] for r in rows}))
    random.Random(0).shuffle(rows)
    chat = Chat(load_tokenizer(model))
    out = []
    for row in rows[: BATCH * steps]:
        messages = (
            Message("system", CASES[case][1].format(labels=labels)),
            Message("user", row["text"]),
            Message("assistant", row["category"]),
        )
        example = chat.examples(Record(row["text"], messages, row["category"]))[0]
        out.append({"input_ids": example.input_ids, "loss_mask": [int(m) for m in example.loss_mask]})
    (folder / "rows.json").write_text(json.dumps(out))


def once(model: Path, folder: Path, last_layers: int, method: Any, *, cached: bool) -> dict[str, Any]:
    """Two passes over the rows."""
    import torch

    from tuneloop.models import load_model
    from tuneloop.rundir import RunDir
    from tuneloop.train import TrainConfig
    from tuneloop.train.loop import fit
    from tuneloop.train.methods import METHODS, border
    from tuneloop.train.objectives import create
    from tuneloop.train.plan import BatchPlan
    from tuneloop.train.sections import CheckpointConfig, FreezeConfig, LoraConfig, MemoryConfig, OptimizerConfig
    from tuneloop.types import Example

    rows = json.loads((folder / "rows.json").read_text())
    examples = [Example(str(i), tuple(r["input_ids"]), tuple(map(bool, r["loss_mask"]))) for i, r in enumerate(rows)]
    steps = len(examples) // BATCH
    config = TrainConfig(
        method=method, learning_rate=5e-5 if method == "freeze" else 2e-4, trackers=(),
        checkpoint=CheckpointConfig(every_steps=10**6), memory=MemoryConfig(cache_activations=cached),
        freeze=FreezeConfig(last_layers=last_layers), lora=LoraConfig(rank=16, last_layers=last_layers),
        optimizer=OptimizerConfig(schedule="constant", warmup_ratio=0.0),
    )  # fmt: skip
    torch.manual_seed(0)
    network = METHODS[method](load_model(model), config)
    one_pass = tuple((tuple(range(s * BATCH, s * BATCH + BATCH)),) for s in range(steps))
    plan = BatchPlan(one_pass * 2, (steps, 2 * steps))
    with tempfile.TemporaryDirectory(dir=folder) as out:
        begun = time.perf_counter()
        objective = border.from_border(network, create(network, config), examples, [], plan, config, Path(out))
        filling_s = time.perf_counter() - begun
        if cached and not isinstance(objective, border.FromBorder):
            sys.exit("error: there is no cache")
        marks: list[float] = []

        def marked(network: Any, rows: Any) -> Any:
            marks.append(time.process_time())
            return objective(network, rows)

        fit(network, marked, examples, [], plan, config, RunDir(Path(out)))
        lines = list(RunDir(Path(out)).metrics())
        disk = sum(f.stat().st_size for f in (Path(out) / border.FOLDER).glob("*.bin"))
    seconds = harness.step_seconds(lines)
    tokens = lines[-1]["tokens"] - lines[steps - 1]["tokens"]
    but_last = lines[-2]["tokens"] - lines[steps - 1]["tokens"]  # the last step's end is not marked
    return {
        "losses": [line["loss"] for line in lines],
        "tokens_per_s": tokens / sum(seconds[steps:]),
        "tokens_per_cpu_s": but_last / (marks[-1] - marks[steps]),
        "filling_s": filling_s,
        "disk_bytes": disk,
    }


def agree(results: dict[str, list[dict[str, Any]]]) -> bool:
    """Whether the losses of all runs are those of the first uncached one."""
    want = results[UNCACHED][0]["losses"]
    runs = [run["losses"] for arm in results.values() for run in arm]
    first = max(abs(run[0] - want[0]) for run in runs)
    later = max(abs(a - b) for run in runs for a, b in zip(run, want, strict=True))
    print(f"  first step differs by {first:.1e}, all steps by at most {later:.1e}", file=sys.stderr)
    return first <= FIRST_STEP and later <= LATER_STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps of one pass")
    parser.add_argument("--last-layers", type=int, default=8)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--data", type=Path, default=harness.ROOT.parent / "shared" / "data" / "intent_en")
    parser.add_argument("--arm", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        kind, model, folder, layers, method = options.arm
        print(json.dumps(once(Path(model), Path(folder), int(layers), method, cached=kind == "cached")))
        return
    if not (options.data / "banking77_train.csv").exists():
        sys.exit(
            f"error: {options.data}: no banking77_train.csv\nhint: --data FOLDER with PolyAI's Banking77 CSV files"
        )
    import torch

    from tuneloop.models import ModelConfig, resolve

    model = resolve(ModelConfig(name="smollm2-135m-instruct"))
    lines = []
    for case in options.cases:
        print(f"{case}:", file=sys.stderr)
        with tempfile.TemporaryDirectory() as name:
            prepare(case, options.data, model, Path(name), options.steps)

            def arm(title: str, kind: str, name: str = name, method: str = CASES[case][0]) -> harness.Arm:
                command = [sys.executable, __file__, "--arm", kind, str(model), name, str(options.last_layers), method]
                return harness.Arm(title, command, {"HF_HUB_OFFLINE": "1"})

            results = harness.interleave([arm(CACHED, "cached"), arm(UNCACHED, "uncached")], options.rounds)
        lines += described(case, results, options, {"torch": torch.__version__.split("+")[0]})
    print(harness.write("train_staged", lines))


def described(
    case: str, results: dict[str, list[dict[str, Any]]], options: argparse.Namespace, versions: dict[str, str]
) -> list[dict[str, Any]]:
    """Result lines of a case; none where the losses differ."""
    if not agree(results):
        print(f"  {case}: no speed number, the losses differ", file=sys.stderr)
        return []
    command = (
        f"python benchmarks/train_staged.py --rounds {options.rounds} --steps {options.steps} "
        f"--last-layers {options.last_layers} --cases {case}"
    )
    lines = []
    for key, metric, unit in (
        ("tokens_per_s", "real tokens per second, second pass", "tokens/s"),
        ("tokens_per_cpu_s", "real tokens per processor second, second pass", "tokens/s"),
    ):
        base = [run[key] for run in results[UNCACHED]]
        for name, runs in results.items():
            speeds = [run[key] for run in runs]
            ratios = [a / b for a, b in zip(speeds, base, strict=True)]
            lines.append(harness.line("train_staged", case, name, metric, unit, speeds, against=UNCACHED, ratios=ratios,
                                      command=command, versions=versions))  # fmt: skip
    filling = [run["filling_s"] for run in results[CACHED]]
    lines.append(harness.line("train_staged", case, CACHED, "filling the cache", "s", filling,
                              command=command, versions=versions))  # fmt: skip
    disk = [run["disk_bytes"] / 1e6 for run in results[CACHED]]
    lines.append(harness.line("train_staged", case, CACHED, "cache on disk", "MB", disk,
                              command=command, versions=versions))  # fmt: skip
    return lines


if __name__ == "__main__":
    main()
