"""Does a distilled student beat the same student trained on labels alone, on rows that neither has seen?

    python benchmarks/distil.py [--seeds 3] [--data FOLDER] [--work FOLDER]

With ``--work`` trainings are kept there, and finished ones are not done again. Results are written after every seed.

The 25 largest classes of Banking77, as it goes in practice: few rows have labels, many have none, and there is a teacher.
The teacher, a small Llama with random start, was trained on 2,000 labelled rows that the students do not have. The students,
smaller Llamas with random start, have 500 labelled rows (20 of each class). Learning from the teacher they also have the
texts, without labels, of the rows that are left, which the teacher has not seen either; it answers them greedily, and
the distilled student learns its distribution at every token of the answers (and at the labels of the 500). A third arm
takes those answers as if they were labels, to tell what the distribution adds. All arms of a seed have the same start,
number of steps, batch and rate, and each keeps the weights of its own best validation (200 rows on which nobody trains).
Distillation has the product's defaults. Held out: the test split without texts that stand in training.

Metrics: label loss (nats an answer, teacher-forced) and accuracy (the greedy answer is the class, token for token). The
difference to labels alone is the mean over rows of the mean over seeds, with a paired bootstrap interval over rows.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

CLASSES, VALIDATION_ROWS, TEACHER_ROWS, ROWS_A_CLASS = 25, 200, 2000, 20
TEMPLATE = (
    "{% for message in messages %}{{ message['content'] + ('<|end|>' if message['role'] == 'assistant' else '<|ask|>') }}"
    "{% endfor %}"
)
TEACHER = {"hidden": 128, "layers": 2, "max_steps": 400, "learning_rate": 2e-3, "batch_size": 32}
STUDENT = {"hidden": 64, "layers": 2, "max_steps": 900, "learning_rate": 2e-3, "batch_size": 8}
BASELINE = "labels alone"
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    BASELINE: ("labelled", {}),
    "distilled": ("answered", {"distil": {}}),
    "the teacher's answers as labels": ("answered", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=harness.ROOT.parent / "shared" / "data" / "intent_en")
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work: Path = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        for number, found in enumerate(compare(work, options.data, options.seeds), 1):
            report(found, number)


def compare(folder: Path, data: Path, seeds: int) -> Iterator[dict[str, dict[str, list[list[float]]]]]:
    """After every seed: arm -> metric -> seed -> a number for each held-out row (the teacher is one more arm)."""
    train, test = read(data / "banking77_train.csv"), read(data / "banking77_test.csv")
    largest = {label for label, _ in Counter(label for _, label in train).most_common(CLASSES)}
    train, test = ([row for row in rows if row[1] in largest] for rows in (train, test))
    seen = {text for text, _ in train}
    held_out = [row for row in test if row[0] not in seen]
    random.Random(0).shuffle(train)
    validation, known = train[:VALIDATION_ROWS], train[VALIDATION_ROWS:]
    tokenizer = make_tokenizer([part for row in known for part in row])
    labelled, others = few(known)
    write_records(folder / "others", others[:TEACHER_ROWS], validation)
    start = make_model(folder / "teacher-start", tokenizer, TEACHER, seed=0)
    teacher = fit(folder, "teacher", start, folder / "others", TEACHER, 0)
    unlabelled = [text for text, _ in others[TEACHER_ROWS:]]
    write_records(folder / "labelled", labelled, validation)
    write_records(folder / "answered", labelled + answered(teacher, unlabelled), validation)
    print(f"{len(labelled)} labelled, {len(unlabelled)} unlabelled, {len(held_out)} held out", file=sys.stderr)
    found: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    judge(found["teacher"], teacher, held_out)
    print({m: sum(v[0]) / len(v[0]) for m, v in found["teacher"].items()}, file=sys.stderr, flush=True)
    for seed in range(seeds):
        start = make_model(folder / f"student-start-{seed}", tokenizer, STUDENT, seed=100 + seed)
        for number, (arm, (rows, more)) in enumerate(ARMS.items()):
            student = fit(folder, f"{seed}-{number}", start, folder / rows, STUDENT, seed, teacher, more)
            judge(found[arm], student, held_out)
            said = {m: sum(v[-1]) / len(v[-1]) for m, v in found[arm].items()}
            print(f"seed {seed} {arm}: {said}", file=sys.stderr, flush=True)
        yield found


def read(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]


def few(rows: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The first ``ROWS_A_CLASS`` rows of each class, and the others."""
    taken: Counter[str] = Counter()
    chosen, others = [], []
    for row in rows:
        taken[row[1]] += 1
        (chosen if taken[row[1]] <= ROWS_A_CLASS else others).append(row)
    return chosen, others


def answered(model_folder: Path, texts: list[str]) -> list[tuple[str, str]]:
    """Texts with the greedy answers of a model."""
    import torch

    from tuneloop.chat import Chat
    from tuneloop.models import load_model, load_tokenizer
    from tuneloop.types import Message

    model, tokenizer = load_model(model_folder), load_tokenizer(model_folder)
    chat, out = Chat(tokenizer), []
    for at in range(0, len(texts), 64):
        prompts = [list(chat.prompt_ids((Message("user", text),))) for text in texts[at : at + 64]]
        batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
        with torch.no_grad():
            found = model.generate(**batch, max_new_tokens=16, do_sample=False)  # type: ignore[operator]
        said = [chat.decode(row[batch["input_ids"].shape[1] :].tolist()) for row in found]
        out += [(text, answer) for text, answer in zip(texts[at : at + 64], said, strict=True) if answer.strip()]
    return out


def make_tokenizer(texts: list[str]) -> Any:
    """A byte-level BPE of 2,000 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|ask|>", "<|end|>"]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=2000, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_model(folder: Path, tokenizer: Any, size: dict[str, Any], *, seed: int) -> Path:
    """A model folder with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    hidden = size["hidden"]
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=size["layers"],
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_records(folder: Path, train: list[tuple[str, str]], validation: list[tuple[str, str]]) -> None:
    from tuneloop.types import Message, Record, record_id

    folder.mkdir(exist_ok=True)
    for split, rows in (("train", train), ("validation", validation)):
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for number, (text, label) in enumerate(rows):
                origin = f"{split}.csv:{number}"
                said = (Message("user", text), Message("assistant", label))
                file.write(json.dumps(Record(record_id(text, origin), said, label, origin).to_json()) + "\n")


def fit(
    folder: Path, name: str, start: Path, records: Path, size: dict[str, Any], seed: int,
    teacher: Path | None = None, more: dict[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Train with the product's own stage; returns the folder of the bundle."""
    from tuneloop import train
    from tuneloop.rundir import RunDir
    from tuneloop.train import TrainConfig

    options = {k: size[k] for k in ("max_steps", "learning_rate", "batch_size")} | (more or {})
    distil = options.get("distil")
    if distil is not None:
        options |= {"objective": "distil", "distil": distil | {"teacher": str(teacher)}}
    config = TrainConfig(
        method="full", trackers=(), epochs=100, validation={"keep": "best", "every_steps": 50}, checkpoint={"every_steps": 10**6},
        optimizer={"weight_decay": 0.1, "warmup_ratio": 0.1}, **options,
    )  # fmt: skip
    out = RunDir(folder / f"run-{name}")
    if (out / "train.json").exists():
        return train.load(out).bundle.path
    out.path.mkdir(exist_ok=True)
    done = train.run(config, start, records, out, seed=seed, teacher=None if distil is None else teacher)
    print(f"  {name}: best after step {done.best_step} of {done.steps}", file=sys.stderr, flush=True)
    return done.bundle.path


def judge(found: dict[str, list[list[float]]], model_folder: Path, rows: list[tuple[str, str]]) -> None:
    """Append label loss and correctness of every row. The greedy answer is right when every token of the right answer is
    the likeliest one after those before it."""
    import torch
    from torch.nn.functional import cross_entropy

    from tuneloop.chat import Chat
    from tuneloop.models import load_model, load_tokenizer
    from tuneloop.train.objectives.plain import label_logits
    from tuneloop.types import Message, Record

    model, chat = load_model(model_folder), Chat(load_tokenizer(model_folder))
    losses, right = [], []
    for at in range(0, len(rows), 64):
        part = rows[at : at + 64]
        said = [Record(str(i), (Message("user", t), Message("assistant", label))) for i, (t, label) in enumerate(part)]
        examples = [chat.examples(record)[0] for record in said]
        with torch.no_grad():
            logits_NV, target_N, _ = label_logits(model, examples)
        sizes = [e.label_tokens for e in examples]
        losses += [float(x.sum()) for x in cross_entropy(logits_NV, target_N, reduction="none").split(sizes)]
        right += [float(x.all()) for x in (logits_NV.argmax(-1) == target_N).split(sizes)]
    found["label loss"].append(losses)
    found["accuracy"].append(right)


def report(found: dict[str, dict[str, list[list[float]]]], seeds: int) -> None:
    import numpy as np
    import torch
    import transformers

    from tuneloop.stats import paired_difference

    command = f"python benchmarks/distil.py --seeds {seeds}"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    lines = []
    for arm, metrics in found.items():
        for metric, unit in (("label loss", "nats an answer"), ("accuracy", "share")):
            values_SN = np.array(metrics[metric])
            line = harness.line(
                "distil", "Banking77, 25 classes, 20 labelled rows each", arm, metric, unit, values_SN.mean(1).tolist(),
                command=command, versions=versions,
            )  # fmt: skip
            text = f"{arm}: {metric} {values_SN.mean():.4f}"
            if arm not in (BASELINE, "teacher"):
                before_SN = np.array(found[BASELINE][metric])
                gap = paired_difference(before_SN.mean(0).tolist(), values_SN.mean(0).tolist())
                each = [paired_difference(b.tolist(), v.tolist()) for b, v in zip(before_SN, values_SN, strict=True)]
                line |= {
                    "ratio_to": BASELINE,
                    "difference": round(gap.value, 4), "difference_low": round(gap.low, 4),
                    "difference_high": round(gap.high, 4), "rows": gap.n, "interval": gap.method,
                    "difference_each_seed": [[round(x, 4) for x in (i.value, i.low, i.high)] for i in each],
                }  # fmt: skip
                text += f", against {BASELINE} {gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]"
            lines.append(line)
            print(text)
    print(f"written to {harness.write('distil', lines)}", file=sys.stderr)


if __name__ == "__main__":
    main()
