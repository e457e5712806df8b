"""Personal data: precision and recall by type, rows per second beside presidio-analyzer, and what a stream holds back.

    python benchmarks/personal.py [--rounds 5]

Quality is measured on presidio_synth_dev (``../shared/data``, MIT; its rows were looked at while the rules were written) and on
the generated Chinese set of ``personal_zh.py`` with a seed that was not. A value is found when a span of its type overlaps it,
exactly found when the span is the value. presidio-analyzer runs with the pattern recognisers of the same types over a blank
spaCy pipeline, the lightest it allows, and with the same telephone regions.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks")]

import harness  # noqa: E402
import personal_zh  # noqa: E402

SHARED = ROOT.parent / "shared" / "data"
SEED, ROWS = 7_000_003, 6000
TYPES = {
    "EMAIL_ADDRESS": "EMAIL", "PHONE_NUMBER": "PHONE", "CREDIT_CARD": "CARD", "IBAN_CODE": "IBAN",
    "US_SSN": "US_SSN", "IP_ADDRESS": "IP",
}  # fmt: skip
"""presidio's names of the types that both find. The set's other types (persons, places, dates ...) need a model or are not
personal by themselves; they are not attempted."""
Spans = Sequence[tuple[str, int, int]]
Find = Callable[[str], Spans]


def ours() -> Find:
    from tuneloop.data.personal import find

    return find


def presidio() -> Find:
    import logging

    import spacy
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer import predefined_recognizers as known
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    logging.disable()

    class Blank(SpacyNlpEngine):
        def __init__(self) -> None:
            super().__init__()
            self.nlp = {"en": spacy.blank("en")}

    registry = RecognizerRegistry()
    for recognizer in (
        known.EmailRecognizer(), known.CreditCardRecognizer(), known.IbanRecognizer(), known.UsSsnRecognizer(),
        known.IpRecognizer(), known.PhoneRecognizer(supported_regions=("GB", "US", "CN")),
    ):  # fmt: skip
        registry.add_recognizer(recognizer)
    engine = AnalyzerEngine(registry=registry, nlp_engine=Blank(), supported_languages=["en"])
    wanted = list(TYPES)

    def find(text: str) -> Spans:
        return [(TYPES[r.entity_type], r.start, r.end) for r in engine.analyze(text, language="en", entities=wanted)]

    return find


ARMS = {"tuneloop": ours, "presidio-analyzer": presidio}


def synth() -> list[personal_zh.Row]:
    data = json.loads((SHARED / "pii" / "presidio_synth_dev.json").read_text(encoding="utf-8"))
    return [
        (
            row["full_text"],
            [
                (TYPES[s["entity_type"]], s["start_position"], s["end_position"])
                for s in row["spans"]
                if s["entity_type"] in TYPES
            ],
            [],
        )
        for row in data
    ]


def score(find: Find, rows: Iterable[personal_zh.Row]) -> dict[str, Counter[str]]:
    """Type -> values, found, exact, wrong; and, under ``decoy: kind``, values and wrong."""
    table: dict[str, Counter[str]] = {}
    for text, wanted, decoys in rows:
        spans = [tuple(s) for s in find(text)]
        for kind, start, end in wanted:
            near = [s for s in spans if s[0] == kind and s[1] < end and s[2] > start]
            exact = (kind, start, end) in near
            table.setdefault(kind, Counter()).update(values=1, found=bool(near), exact=exact)
        wrong = [s for s in spans if not any(s[0] == k and s[1] < b and s[2] > a for k, a, b in wanted)]
        for kind, _, _ in wrong:
            table.setdefault(kind, Counter()).update(wrong=1)
        for kind, start, end in decoys:
            hit = any(s[1] < end and s[2] > start for s in wrong)
            table.setdefault(f"decoy: {kind}", Counter()).update(values=1, wrong=hit)
    return table


def quality(case: str, arm: str, rows: Sequence[personal_zh.Row], common: dict[str, Any]) -> list[dict[str, Any]]:
    lines = []
    print(f"{case} · {arm}")
    for kind, n in sorted(score(ARMS[arm](), rows).items()):
        if kind.startswith("decoy"):
            found = {"decoys taken for data": n["wrong"] / n["values"]}
        else:
            hits = n["found"] + n["wrong"]
            found = {"precision": n["found"] / hits} if hits else {}
            if n["values"]:
                found |= {"recall, overlap": n["found"] / n["values"], "recall, exact": n["exact"] / n["values"]}
        print(f"  {kind:32} n={n['values']:5} " + " ".join(f"{k} {v:.4f}" for k, v in found.items()))
        found["values"] = n["values"]
        lines += [
            harness.line("personal", f"{case}: {kind}", arm, k, "rows" if k == "values" else "share", [v], **common)
            for k, v in found.items()
        ]
    return lines


def clean_rows() -> dict[str, list[str]]:
    with (SHARED / "intent_en" / "banking77_train.csv").open(encoding="utf-8", newline="") as file:
        english = [row["text"] for row in csv.DictReader(file)]
    lines = (SHARED / "medical_zh" / "huatuo_1200.jsonl").read_text(encoding="utf-8").splitlines()
    return {"banking77": english, "huatuo": [json.loads(line)["output"] for line in lines]}


def measure(arm: str) -> dict[str, float]:
    """Case -> rows per second of one arm: the median of seven passes, after one that loads what is loaded on first use.

    Of processor time: both arms use one thread, and other programs may be running. What we remember of numbers that were
    judged before is forgotten between the passes.
    """
    if arm == "redact step":
        return {case: _step(texts) for case, texts in clean_rows().items()}
    find = ARMS[arm]()
    cases = {case: texts[:500] for case, texts in clean_rows().items()}
    cases |= {"synth": [row[0] for row in synth()], "zh": [row[0] for row in personal_zh.rows(500, SEED)]}
    return {case: statistics.median([_pass(find, texts) for _ in range(8)][1:]) for case, texts in cases.items()}


def _pass(find: Find, texts: Sequence[str]) -> float:
    from tuneloop.data.personal import phones

    phones._valid.cache_clear()
    clock = time.process_time()
    for text in texts:
        find(text)
    return len(texts) / (time.process_time() - clock)


def _step(texts: list[str]) -> float:
    from tuneloop.data.frame import make_frame
    from tuneloop.data.steps.redact import Redact

    texts = (texts * (20_000 // len(texts) + 1))[:20_000]
    frame = make_frame(
        {"id": [str(i) for i in range(len(texts))], "messages": [[{"role": "user", "content": text}] for text in texts]}
    )
    Redact().apply(frame[:100])
    clock = time.process_time()
    Redact().apply(frame)
    return len(texts) / (time.process_time() - clock)


def speed(rounds: int, common: dict[str, Any]) -> list[dict[str, Any]]:
    """Every arm in a process of its own, in turn."""
    command = [sys.executable, str(Path(__file__).resolve()), "--arm"]
    arms = [*ARMS, "redact step"]
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    for _ in range(rounds):
        for arm in arms:
            found[arm].append(harness.once(harness.Arm(arm, [*command, arm], {})))
    lines = []
    for case in ("synth", "zh", "banking77", "huatuo"):
        peer = [run[case] for run in found["presidio-analyzer"]]
        for arm in (arm for arm in arms if case in found[arm][0]):
            values = [run[case] for run in found[arm]]
            ratios = [a / b for a, b in zip(values, peer, strict=True)]
            lines.append(
                harness.line("personal", f"speed: {case}", arm, "rows per second of one core", "1/s", values,
                             against="presidio-analyzer", ratios=ratios, **common)
            )  # fmt: skip
            middle, ratio = statistics.median(values), statistics.median(ratios)
            print(f"{case:10} {arm:18} {middle:10.0f} rows/s  x{ratio:.1f} ({min(ratios):.1f}-{max(ratios):.1f})")
    return lines


def stream(common: dict[str, Any]) -> list[dict[str, Any]]:
    """Characters held back after each piece of one to six characters, as a model emits them."""
    from tuneloop.data.personal import Masker

    r, lines = random.Random(SEED), []
    cases = clean_rows() | {
        "synth": [row[0] for row in synth()],
        "zh": [row[0] for row in personal_zh.rows(1000, SEED)],
    }
    for case, texts in cases.items():
        held, clock, masker = list[int](), 0.0, Masker()
        for text in texts[:1000]:
            at = 0
            while at < len(text):
                piece = text[at : at + r.randint(1, 6)]
                begun = time.perf_counter()
                masker.feed(piece)
                clock += time.perf_counter() - begun
                held.append(masker.held)
                at += len(piece)
            masker.finish()
        held.sort()
        found = {"median": statistics.median(held), "mean": statistics.fmean(held), "p99": held[len(held) * 99 // 100]}
        found |= {"max": held[-1]}
        print(f"stream {case:10} {found} {clock / len(held) * 1e6:.1f} us a piece")
        lines += [
            harness.line("personal", f"stream: {case}", "tuneloop", f"held back, {k}", "characters", [v], **common)
            for k, v in found.items()
        ]
        lines.append(
            harness.line(
                "personal", f"stream: {case}", "tuneloop", "time a piece", "us", [clock / len(held) * 1e6], **common
            )
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--arm")
    args = parser.parse_args()
    if not SHARED.is_dir():
        sys.exit("error: the shared data is not there\nhint: put it beside the project, as ../shared/data")
    if args.arm:
        print(json.dumps(measure(args.arm)))
        return
    names = ("presidio-analyzer", "spacy", "phonenumbers", "polars")
    common = {
        "command": f"python benchmarks/personal.py --rounds {args.rounds}",
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in names}},
    }
    chinese = personal_zh.rows(ROWS, SEED)
    lines = [line for arm in ARMS for line in quality("synth", arm, synth(), common)]
    lines += [line for arm in ARMS for line in quality("zh", arm, chinese, common)]
    lines += stream(common)
    lines += speed(args.rounds, common)
    print(f"wrote {harness.write('personal', lines)}")


if __name__ == "__main__":
    main()
