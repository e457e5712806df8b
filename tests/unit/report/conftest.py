"""A run that was never run: questions and answers made up here, judged by the real evaluate and compare."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.evaluate.conftest import CharChat, FakeBundle, TableEngine
from tuneloop import compare, evaluate
from tuneloop.rundir import Run
from tuneloop.types import Message, Record

ENGLISH = (
    "card_arrival", "lost_or_stolen_card", "refund_not_showing_up", "declined_card_payment", "change_pin", "exchange_rate",
    "top_up_failed", "transfer_fee_charged", "close_account", "verify_identity", "cash_withdrawal_charge", "direct_debit",
)  # fmt: skip
CHINESE = ("内科", "外科", "妇产科", "儿科", "肿瘤与血液科", "皮肤性病科", "五官科")
FREE_TEXT = ("Please keep the card and wait for {i} days until the new one arrives at your home.",)

MakeRun = Callable[..., Run]


def records(labels: tuple[str, ...], n: int, draw: random.Random) -> list[Record]:
    out = []
    for i in range(n):
        label = (
            labels[min(int(draw.expovariate(0.35)), len(labels) - 1)] if len(labels) < 20 else labels[i % len(labels)]
        )
        answer = label if labels is not FREE_TEXT else label.format(i=i)
        asked = (
            Message("system", "Name the intent."),
            Message("user", f"question {i} of a customer <script>alert({i})</script> & <b>{label}</b>"),
        )
        out.append(
            Record(
                f"{i:016x}",
                (*asked, Message("assistant", answer)),
                None if labels is FREE_TEXT else label,
                f"raw.csv:{i + 2}",
            )
        )
    return out


def answers(
    rows: list[Record], labels: tuple[str, ...], right: float, sloppy: float, draw: random.Random
) -> dict[str, str]:
    out = {}
    for r in rows:
        wrong = draw.choice(labels) if labels is not FREE_TEXT else "I do not know, please wait and see."
        said = r.answer if draw.random() < right else wrong
        out[r.prompt[1].content] = f"The intent is {said}." if draw.random() < sloppy else said
    return out


def put(folder: Path, name: str, value: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def data_stage(run: Run, rows: list[Record], dropped: dict[str, int]) -> None:
    folder = run.dir("data").path
    out = sum(dropped.values())
    counts = {"rows_in": 1412, "kept": 1412 - out, "dropped": out, "train": 870, "validation": 180, "test": len(rows)}
    steps = [{"step": "duplicates", "rows": 1412, "dropped": out, "changed": 0}]
    put(folder, "summary.json", {
        "counts": counts, "dropped": dropped, "labels": [], "detected": "text/intent columns of raw.csv", "steps": steps,
        "warnings": ["near_duplicates dropped 90 of 1,412 rows <6 %>"], "personal_data": {"phone": 31, "card": 12},
        "files": [{"path": "raw.csv", "sha256": "ab" * 32, "rows": 1412}],
    })  # fmt: skip
    text = "".join(json.dumps(r.to_json(), ensure_ascii=False) + "\n" for r in rows)
    (folder / "test.jsonl").write_text(text, encoding="utf-8")
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text("", encoding="utf-8")


def train_stage(run: Run, steps: int, draw: random.Random) -> None:
    folder = run.dir("train").path
    put(folder, "train.json", {
        "steps": steps, "tokens": 81234, "loss": 0.0312, "validation_loss": 0.117, "tokens_per_s": 812.4, "seed": 0,
        "trained_parameters": 4_884_480, "parameters": 139_399_488, "rows": 870, "left_out": {"longer than 512 tokens": 2},
        "warnings": [{"step": 40, "warning": "overfitting", "what": "validation rises <while> training falls", "advice": "stop earlier"}],
        "peak_memory_bytes": 2_310_000_000,
    })  # fmt: skip
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, steps + 1):
            loss = 0.05 + 3.2 * 0.975**step + draw.uniform(0, 0.25)
            file.write(json.dumps({"step": step, "loss": loss, "learning_rate": 2e-4, "tokens_per_s": 800.0}) + "\n")
            if step % 25 == 0:
                file.write(json.dumps({"step": step, "validation_loss": 0.1 + 3.0 * 0.975**step}) + "\n")


def small_stages(run: Run) -> None:
    parity = {
        "prompts": 64, "positions": 402, "token_ids_equal": True, "mean_kl": 0.00031, "p99_kl": 0.0042, "max_kl": 0.011,
        "greedy_agreement": 0.9975, "perplexity_before": 1.121, "perplexity_after": 1.122, "ok": True,
        "reason": "same token ids, mean KL 0.00031 nats, greedy agreement 99.8% over 402 positions",
    }  # fmt: skip
    sizes = {"float32": 538_060_032, "16 bit": 269_030_016, "q8_0": 144_811_392}
    put(run.dir("compress").path, "compress.json",
        {"quantisation": "q8_0", "sizes_bytes": sizes, "parameters": 134515008, "parity": parity})  # fmt: skip
    put(run.dir("serve").path, "serve.json", {
        "engine": "llamacpp", "n": 24, "errors": 0, "concurrency": 8, "p50_s": 0.412, "p95_s": 0.93, "first_token_s": 0.12,
        "tokens_per_s": 61.5, "streamed_equals_whole": True, "answers": [], "matches": 24,
    })  # fmt: skip


def make(root: Path, labels: tuple[str, ...] = ENGLISH, *, n: int = 140, base: float = 0.1, tuned: float = 0.92,
         sloppy: float = 0.5, only: tuple[str, ...] | None = None) -> Run:  # fmt: skip
    """A run folder; ``only`` keeps some stages."""
    draw = random.Random(4)
    run = Run(root)
    rows = records(labels, n, draw)
    data_stage(run, rows, {"near_duplicate": 90, "duplicate": 61, "empty": 21, "truncated": 9})
    train_stage(run, 220, draw)
    small_stages(run)
    config = evaluate.EvaluateConfig(resamples=200)
    chat: Any = CharChat()
    sharp = answers(rows, labels, tuned, 0.0, draw)
    tables = {"base": answers(rows, labels, base, sloppy, draw), "tuned": sharp, "compressed": sharp}
    for who, table in tables.items():
        out = run.dir(f"evaluate-{who}")
        out.path.mkdir(parents=True)
        precision = "q8_0" if who == "compressed" else "float32"
        subject = evaluate.Subject(FakeBundle(Path("models/base"), precision), who)
        evaluate.run(config, subject, run.dir("data").path, TableEngine(table), chat, out)
    for stage, one, two, question in (
        ("compare", "base", "tuned", "better"), ("compare-compressed", "tuned", "compressed", "not worse")
    ):  # fmt: skip
        a, b = (evaluate.scores(run.dir(f"evaluate-{s}")) for s in (one, two))
        gate = compare.CompareConfig(resamples=500)
        compare.run(gate, a, b, run.dir(stage), question=question, baseline=one, candidate=two)  # type: ignore[arg-type]
    if only is not None:
        for folder in run.root.iterdir():
            if folder.name not in only:
                for file in folder.iterdir():
                    file.unlink()
                folder.rmdir()
    return run


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """``make_run(labels, base=0.1, tuned=0.9, only=(...))`` -> a run folder of this test."""
    return lambda *args, **more: make(tmp_path / "runs" / "bank-support", *args, **more)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A complete run that is only read."""
    return make(tmp_path_factory.mktemp("runs") / "bank-support")
