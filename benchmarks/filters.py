"""The gateway's filters: precision and recall of unsafe sentences, false alarms on harmless prompts, microseconds a token.

    python benchmarks/filters.py [--rounds 5]

Unsafe: COLD's dev posts that do not stand in its training posts, and the quarter of Davidson's posts that the English model
neither learnt from nor was chosen on (see ``scripts/train_toxicity.py``). alt-profanity-check stands beside it; it was trained
on Davidson's posts, these among them. Both sets are what their annotators call offensive, not everything that is unsafe.
False alarms: every prompt of Banking77's test questions, GSM8K, Huatuo, BELLE's seeds, DISC-Fin and Wikipedia counts as
harmless; for the prompt-injection flag also web pages (C4) and conversations of preference data, whole. There is no recall of the prompt-injection flag here: a list of our own would measure only itself.
Time: answers in pieces of one to six characters, as a model emits them, through the last stage of an answer.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "scripts")]

import harness  # noqa: E402

from tuneloop.serve.filters.config import FiltersConfig, UnsafeConfig  # noqa: E402
from tuneloop.serve.filters.filters import Filters  # noqa: E402
from tuneloop.serve.filters.injection import PromptInjection  # noqa: E402
from tuneloop.serve.filters.text import Check, Finder, Hits, whole  # noqa: E402
from tuneloop.serve.filters.unsafe import Unsafe  # noqa: E402
from tuneloop.stats import Interval, wilson  # noqa: E402

SHARED = ROOT.parent / "shared" / "data"
SEED = 5
Judge = Callable[[str], bool]

UNSAFE: dict[str, UnsafeConfig] = {
    "words and classifier": UnsafeConfig(),
    "words": UnsafeConfig(classifier=False),
    "classifier": UnsafeConfig(built_in_words=False),
    "classifier, threshold 0.9": UnsafeConfig(built_in_words=False, threshold_zh=0.9, threshold_en=0.9),
}


def finds(make: Callable[[], Finder]) -> Judge:
    def judge(text: str) -> bool:
        hits = Hits()
        whole(text, [Check(make(), "flag")], hits)
        return bool(hits)

    return judge


def unsafe(config: UnsafeConfig) -> Judge:
    return finds(lambda: Unsafe(config))


def peer(text: str) -> bool:
    import profanity_check

    return bool(profanity_check.predict_prob([text])[0] >= 0.9)


def offensive_posts() -> dict[str, list[tuple[str, bool]]]:
    import train_toxicity

    safety = SHARED / "safety"
    learnt = set(train_toxicity.read(safety / "cold_zh_train_10000.csv")[0])
    chinese = zip(*train_toxicity.read(safety / "cold_zh_dev.csv"), strict=True)
    english = list(zip(*train_toxicity.read_english(safety / "davidson_en_10000.csv"), strict=True))
    return {
        "COLD dev (zh)": [(text, bool(label)) for text, label in chinese if text not in learnt],
        "Davidson quarter (en)": [(text, bool(label)) for text, label in english[3::4]],
    }


def harmless() -> dict[str, list[str]]:
    def lines(*path: str) -> list[Any]:
        return [json.loads(x) for x in (SHARED.joinpath(*path)).read_text(encoding="utf-8").splitlines() if x.strip()]

    with (SHARED / "intent_en" / "banking77_test.csv").open(encoding="utf-8", newline="") as file:
        bank = [row["text"] for row in csv.DictReader(file)]
    finance = [
        row["instruction"] + row["input"]
        for name in ("computing", "consulting", "task")
        for row in json.loads((SHARED / "finance_zh" / f"disc_{name}.json").read_text(encoding="utf-8"))
    ]
    wiki = (SHARED / "corpus" / "wiki_en_demo.txt").read_text(encoding="utf-8").splitlines()
    return {
        "Banking77 test (en)": bank,
        "GSM8K (en)": [row["question"] for row in lines("gsm8k", "train_3000.jsonl")],
        "Wikipedia lines (en)": [line for line in wiki if len(line) > 40],
        "Huatuo (zh)": [row["instruction"] + row["input"] for row in lines("medical_zh", "huatuo_1200.jsonl")],
        "BELLE seeds (zh)": [
            row["instruction"] + row["instances"][0]["input"] for row in lines("instruct", "belle_zh_seed_tasks.json")
        ],
        "DISC-Fin (zh)": finance,
    }


def more_text() -> dict[str, list[str]]:
    """Where orders of an attacker would stand, and insults may stand: pages, conversations."""
    pages = (SHARED / "corpus" / "c4_en_demo.jsonl").read_text(encoding="utf-8").splitlines()
    out = {"C4 pages (en)": [json.loads(line)["text"] for line in pages]}
    for language in ("en", "zh"):
        rows = json.loads((SHARED / "preference" / f"dpo_{language}_demo.json").read_text(encoding="utf-8"))
        out[f"DPO turns ({language})"] = [turn["value"] for row in rows for turn in row["conversations"]]
    return out


def share(case: str, arm: str, metric: str, found: Interval, common: dict[str, Any]) -> dict[str, Any]:
    """A result line whose low and high are the ends of the Wilson interval."""
    print(f"{case:24} {arm:28} {metric:10} {found.value:.4f} [{found.low:.4f}, {found.high:.4f}] n={found.n}")
    line = harness.line("filters", case, arm, metric, "share", [found.value], **common)
    return line | {"low": round(found.low, 4), "high": round(found.high, 4), "n": found.n}


def quality(common: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for case, posts in offensive_posts().items():
        arms = {name: unsafe(config) for name, config in UNSAFE.items()}
        for arm, judge in (arms | ({"alt-profanity-check 0.9": peer} if "en" in case else {})).items():
            said = [(judge(text), label) for text, label in posts]
            hits = sum(a and b for a, b in said)
            yield share(case, arm, "precision", wilson(hits, sum(a for a, _ in said)), common)
            yield share(case, arm, "recall", wilson(hits, sum(b for _, b in said)), common)


def false_alarms(common: dict[str, Any]) -> Iterator[dict[str, Any]]:
    arms = {f"unsafe: {name}": unsafe(config) for name, config in UNSAFE.items()}
    arms["prompt injection"] = finds(PromptInjection)
    for case, texts in harmless().items():
        for arm, judge in arms.items():
            yield share(case, arm, "flagged", wilson(sum(map(judge, texts)), len(texts)), common)
    for case, texts in more_text().items():
        found = [text for text in texts if arms["prompt injection"](text)]
        yield share(case, "prompt injection", "flagged", wilson(len(found), len(texts)), common)


def pieces(texts: Sequence[str]) -> list[list[str]]:
    r = random.Random(SEED)
    out = []
    for text in texts:
        cuts, at = list[str](), 0
        while at < len(text):
            size = r.randint(1, 6)
            cuts.append(text[at : at + size])
            at += size
        out.append(cuts)
    return out


TIMED: dict[str, dict[str, Any]] = {
    "personal data": {"personal_data": {"output": "mask"}},
    "unsafe": {"unsafe": {"output": "block"}},
    "both": {"personal_data": {"output": "mask"}, "unsafe": {"output": "mask"}},
}


def microseconds(filters: Filters, answers: list[list[str]], waits: list[int]) -> float:
    clock = 0.0
    for answer in answers:
        guard = filters.output()
        assert guard is not None
        for piece in answer:
            begun = time.perf_counter()
            guard.feed([("content", piece)])
            clock += time.perf_counter() - begun
            waits.append(guard.held)
        guard.finish()
    return clock / sum(map(len, answers)) * 1e6


def speed(rounds: int, common: dict[str, Any]) -> Iterator[dict[str, Any]]:
    english = json.loads((SHARED / "preference" / "dpo_en_demo.json").read_text(encoding="utf-8"))
    chinese = (SHARED / "medical_zh" / "huatuo_1200.jsonl").read_text(encoding="utf-8").splitlines()
    cases = {
        "answers (en)": pieces([row["chosen"]["value"] for row in english][:60]),
        "answers (zh)": pieces([json.loads(line)["output"] for line in chinese][:200]),
    }
    for case, answers in cases.items():
        made = {arm: Filters(FiltersConfig.model_validate(c), lambda *_: None) for arm, c in TIMED.items()}
        found: dict[str, list[float]] = {arm: [] for arm in made}
        waits: dict[str, list[int]] = {arm: [] for arm in made}
        for turn in range(rounds + 1):  # the first loads what is loaded on first use
            for arm, filters in made.items():
                took = microseconds(filters, answers, waits[arm])
                found[arm] += [took] if turn else []
        for arm, values in found.items():
            yield harness.line("filters", case, arm, "time a token", "us", values, **common)
            held = sorted(waits[arm])
            worst = held[len(held) * 99 // 100]
            print(
                f"{case} {arm}: {statistics.median(values):.1f} us a token ({min(values):.1f}-{max(values):.1f}), ",
                end="",
            )
            print(f"held back: median {statistics.median(held)}, p99 {worst}, most {held[-1]} characters")
            for metric, value in (("median", statistics.median(held)), ("p99", worst), ("max", held[-1])):
                yield harness.line("filters", case, arm, f"held back, {metric}", "characters", [value], **common)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if not SHARED.is_dir():
        sys.exit("error: the shared data is not there\nhint: put it beside the project, as ../shared/data")
    common = {
        "command": f"python benchmarks/filters.py --rounds {args.rounds}",
        "versions": {"python": sys.version.split()[0], **{n: version(n) for n in ("numpy", "alt-profanity-check")}},
    }
    lines = [*quality(common), *false_alarms(common), *speed(args.rounds, common)]
    print(f"wrote {harness.write('filters', lines)}")


if __name__ == "__main__":
    main()
