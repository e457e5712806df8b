"""The CPU engines against each other on one GGUF: SmolLM2-135M at 8 bit, 64 new tokens, concurrency 1, 8 and 32.

    python benchmarks/engines_cpu.py [--rounds 3]

It decides which engine ``engine.name: auto`` takes for GGUF. Beside speed it counts how many greedy tokens come before
the first that differs from the ``transformers`` engine over the same weights, dequantised to float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.harness import Arm, interleave, line, once, write

CONCURRENCY = (1, 8, 32)
NEW_TOKENS, CONTEXT = 64, 512
PROMPTS = (
    "The capital of France is",
    "Explain how a bank card works.",
    "Write a poem about rain:",
    "List three colours and say why.",
    "My card was stolen yesterday and",
    "Once upon a time in a small village",
    "def fibonacci(n):",
    "The weather in London is usually",
)
ARMS = {
    "llamacpp": {"name": "llamacpp"},
    "openvino": {"name": "openvino"},
    "openvino float32": {"name": "openvino", "dtype": "float32"},
}
REFERENCE = {"name": "transformers"}


def measure(folder: str, settings: dict[str, Any], concurrency: tuple[int, ...]) -> dict[str, Any]:
    """One process's work: load, warm up, and answer at each concurrency; the last answers are kept."""
    from tuneloop.engines import EngineConfig, create, generate
    from tuneloop.models import load_tokenizer, open_bundle
    from tuneloop.types import Request, Sampling

    bundle = open_bundle(folder)
    tokenizer = load_tokenizer(bundle)
    engine = create(
        EngineConfig(max_running=max(concurrency), context_tokens=CONTEXT, prefix_cache=False, **settings), bundle
    )
    ids = [tuple(tokenizer(text)["input_ids"]) for text in PROMPTS]

    def run(count: int, at_once: int) -> tuple[float, list[list[int]]]:
        requests = [Request(f"r{i}", ids[i % len(ids)], Sampling(NEW_TOKENS)) for i in range(count)]
        began = time.perf_counter()
        answers = generate(engine, requests, concurrency=at_once)
        speed = sum(len(a.token_ids) for a in answers) / (time.perf_counter() - began)
        return speed, [list(a.token_ids) for a in answers]

    run(1, 1)
    speeds = {str(n): run(max(n, 2), n)[0] for n in concurrency}
    alone = run(len(ids), 1)[1]
    engine.close()
    return {"tokens_per_s": speeds[str(concurrency[-1])], "speeds": speeds, "answers": alone}


def agreement(answers: list[list[int]], reference: list[list[int]]) -> float:
    """Share of tokens before the first that differs."""
    equal = 0
    for ours, theirs in zip(answers, reference, strict=True):
        differ = (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
        equal += next(differ, min(len(ours), len(theirs)))
    return equal / sum(map(len, reference))


def make(folder: Path) -> None:
    """The model as a Q8_0 GGUF with its tokenizer."""
    from tuneloop.compress import write_gguf
    from tuneloop.models import ModelConfig, load_model, load_tokenizer, resolve

    source = resolve(ModelConfig(name="smollm2-135m-instruct"))
    tokenizer = load_tokenizer(source)
    write_gguf(load_model(source, device="cpu"), tokenizer, folder / "model.q8_0.gguf", "q8_0", name="smollm2")
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--one", nargs=3, metavar=("FOLDER", "SETTINGS", "CONCURRENCY"), help="measure once, for itself"
    )
    options = parser.parse_args()
    if options.one:
        folder, settings, concurrency = options.one
        print(json.dumps(measure(folder, json.loads(settings), tuple(json.loads(concurrency)))))
        return
    with TemporaryDirectory() as name:
        make(Path(name))

        def arm(label: str, settings: dict[str, Any], concurrency: tuple[int, ...]) -> Arm:
            words = [sys.executable, __file__, "--one", name, json.dumps(settings), json.dumps(concurrency)]
            return Arm(label, words, {"OMP_NUM_THREADS": "2"})

        reference = once(arm("transformers", REFERENCE, (1,)))["answers"]
        found = interleave([arm(label, settings, CONCURRENCY) for label, settings in ARMS.items()], options.rounds)
    versions = {package: version(package) for package in ("xllamacpp", "openvino-genai", "transformers")}
    command = "python benchmarks/engines_cpu.py"
    rows = []
    for label, results in found.items():
        for n in map(str, CONCURRENCY):
            values = [r["speeds"][n] for r in results]
            ratios = [r["speeds"][n] / b["speeds"][n] for r, b in zip(results, found["llamacpp"], strict=True)]
            rows.append(
                line("engines_cpu", f"concurrency {n}", label, "speed", "tokens/s", values, against="llamacpp",
                     ratios=ratios, command=command, versions=versions)
            )  # fmt: skip
        shares = [agreement(r["answers"], reference) for r in results]
        rows.append(
            line("engines_cpu", "greedy", label, "equal tokens", "share", shares, against="transformers",
                 ok=label != "openvino float32" or statistics.median(shares) == 1.0, command=command, versions=versions)
        )  # fmt: skip
    for row in rows:
        print(f"{row['case']:15} {row['arm']:18} {row['median']:8.2f} {row['unit']:9} ({row['low']:.2f}-{row['high']:.2f})"
              f"  ratio {row['ratio']}")  # fmt: skip
    print(write("engines_cpu", rows))


if __name__ == "__main__":
    main()
