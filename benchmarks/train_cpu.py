"""Training speed on a CPU beside TRL's SFTTrainer and LLaMA-Factory's trainer, on the same rows, token ids, batch plan and initial adapter.

    python benchmarks/train_cpu.py [--rounds 3] [--steps 12] [--data FOLDER]

Real tokens a second: the tokens of the rows as if each stood alone, over the wall time of the optimizer steps after two
warm-up steps. A speed is only reported where the losses of all steps agree with the plain padded computation (float32:
1e-5 at the first step, where both have the same weights, and 2e-3 after that, where rounding has been amplified by
training; the equality of single steps is proven by tests/invariants/test_training_step.py and test_kernels.py).

Tokens per processor second count the processor time of all threads over all steps, warm-up included: on a machine that
others use too it is the steadier number. In the control no row is padded, no token is without a label and no two rows
begin alike. A second TRL arm gets from glibc's environment variables what our loop asks of the allocator.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
import tempfile
import time
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

BATCH = 8
LEARNING_RATE = {"lora": 1e-3, "full": 2e-5}
FIRST_STEP, LATER_STEPS = 1e-5, 2e-3
FACTORY, UNBUILT = ["llamafactory==0.9.5"], ["torchaudio", "torchvision"]
PEER = ["transformers==5.23.0", "trl==1.16.0", "peft==0.21.2", "accelerate==1.15.0"]
CASES = {
    "lora-short": ("lora", "You sort messages of a bank. Answer with the intent of the message."),
    "lora-long": ("lora", "Answer with one of these intents: {labels}"),
    "full-short": ("full", "You sort messages of a bank. Answer with the intent of the message."),
    "control": ("lora", ""),
}
CONTROL_TOKENS = 64
ORACLE = "plain padded (our oracle)"
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_TOP_PAD_": str(64 << 20),
}  # fmt: skip
"""What tuneloop.train.allocator sets."""
METRICS = (
    ("real tokens per second", "tokens_per_s", "tokens/s", 1),
    ("real tokens per processor second", "tokens_per_processor_s", "tokens/s", 1),
    ("peak memory", "peak_bytes", "GB", 1e9),
    ("minor page faults", "minor_faults", "million", 1e6),
)


def prepare(case: str, data: Path, model: Path, folder: Path, steps: int) -> None:
    """Write token ids with masks in the order of the plan, and the initial adapter, for every arm."""
    import torch

    from tuneloop.chat import Chat
    from tuneloop.models import load_model, load_tokenizer
    from tuneloop.train import TrainConfig
    from tuneloop.train.methods import METHODS
    from tuneloop.types import Message, Record

    method, system = CASES[case]
    with (data / "banking77_train.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = ", ".join(sorted({r["category"] for r in rows}))
    random.Random(0).shuffle(rows)
    tokenizer = load_tokenizer(model)
    chat = Chat(tokenizer)
    out = control_rows(tokenizer, [r["text"] for r in rows], BATCH * steps) if case == "control" else []
    for row in rows[: 0 if out else BATCH * steps]:
        messages = (
            Message("system", system.format(labels=labels)),
            Message("user", row["text"]),
            Message("assistant", row["category"]),
        )
        example = chat.examples(Record(row["text"], messages, row["category"]))[0]
        out.append({"input_ids": example.input_ids, "loss_mask": [int(m) for m in example.loss_mask]})
    (folder / "rows.json").write_text(json.dumps(out))
    if method == "lora":
        torch.manual_seed(0)
        METHODS["lora"](load_model(model), TrainConfig()).save_pretrained(folder / "adapter")  # type: ignore[operator]


def control_rows(tokenizer: Any, texts: list[str], count: int) -> list[dict[str, Any]]:
    """Rows of one length, every token but the first with a label, no two with the same first token in a batch of 8."""
    stream = [t for text in texts for t in tokenizer(text, add_special_tokens=False)["input_ids"]]
    cut = [stream[at : at + CONTROL_TOKENS] for at in range(0, len(stream) - CONTROL_TOKENS, CONTROL_TOKENS)]
    out: list[list[int]] = []
    for row in cut:
        batch = out[len(out) - len(out) % BATCH :]
        if len(out) < count and row[0] not in {r[0] for r in batch}:
            out.append(row)
    mask = [0, *[1] * (CONTROL_TOKENS - 1)]
    return [{"input_ids": row, "loss_mask": mask} for row in out]


def ours(case: str, model: Path, folder: Path, kind: str) -> dict[str, Any]:
    """One run of our loop: ``shared``, ``flat`` (no shared prefixes) or ``plain`` (the padded oracle)."""
    from tuneloop.models import load_model, quiet
    from tuneloop.rundir import RunDir
    from tuneloop.train import TrainConfig
    from tuneloop.train.loop import fit
    from tuneloop.train.objectives import sft
    from tuneloop.train.plan import BatchPlan
    from tuneloop.train.sections import CheckpointConfig, OptimizerConfig
    from tuneloop.types import Example

    method = CASES[case][0]
    rows = json.loads((folder / "rows.json").read_text())
    examples = [Example(str(i), tuple(r["input_ids"]), tuple(map(bool, r["loss_mask"]))) for i, r in enumerate(rows)]
    steps = len(examples) // BATCH
    network: Any = load_model(model)
    if method == "lora":
        import peft

        with quiet():
            network = peft.PeftModel.from_pretrained(network, folder / "adapter", is_trainable=True)
    config = TrainConfig(
        method=method, learning_rate=LEARNING_RATE[method], trackers=(),  # type: ignore[arg-type]
        optimizer=OptimizerConfig(schedule="constant", warmup_ratio=0.0), checkpoint=CheckpointConfig(every_steps=10**6),
    )  # fmt: skip
    objective = sft(network, padding_free=kind != "plain", share_prefixes=kind == "shared", label_smoothing=0.0)
    plan = BatchPlan(tuple((tuple(range(s * BATCH, s * BATCH + BATCH)),) for s in range(steps)), (steps,))
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as out:
        fit(network, objective, examples, [], plan, config, RunDir(Path(out)))
        lines = list(RunDir(Path(out)).metrics())
    seconds = [
        (b["tokens"] - a["tokens"]) / b["tokens_per_s"] for a, b in zip([{"tokens": 0}, *lines], lines, strict=False)
    ]
    spent = time.process_time() - begun
    return summary([line["loss"] for line in lines], seconds, spent, [len(e.input_ids) for e in examples])


def trl(case: str, model: Path, folder: Path, kind: str) -> dict[str, Any]:
    """One run of TRL's SFTTrainer: ``default`` (gradient checkpointing) or ``tuned`` (without)."""
    import torch
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    method = CASES[case][0]
    rows = json.loads((folder / "rows.json").read_text())
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if method == "lora":
        from peft import PeftModel

        network = PeftModel.from_pretrained(network, folder / "adapter", is_trainable=True)
    tokenizer = AutoTokenizer.from_pretrained(model)

    class Ordered(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return SequentialSampler(self.train_dataset)

    kind_of, losses, seconds = watched(Ordered)
    with tempfile.TemporaryDirectory() as out:
        config = SFTConfig(
            output_dir=out, per_device_train_batch_size=BATCH, num_train_epochs=1, learning_rate=LEARNING_RATE[method],
            lr_scheduler_type="constant", warmup_steps=0, optim="adamw_torch_fused", weight_decay=0.0, max_grad_norm=1.0,
            gradient_checkpointing=kind == "default", bf16=False, fp16=False, use_cpu=True, report_to="none",
            save_strategy="no", logging_steps=1, max_length=None, disable_tqdm=True,
            dataset_kwargs={"skip_prepare_dataset": True}, remove_unused_columns=False, dataloader_num_workers=0,
        )  # fmt: skip
        data = Dataset.from_list([{"input_ids": r["input_ids"], "labels": labels_of(r)} for r in rows])
        trainer = kind_of(model=network, args=config, train_dataset=data, processing_class=tokenizer)
        begun = time.process_time()
        trainer.train()
        spent = time.process_time() - begun
    return summary(losses, seconds, spent, [len(r["input_ids"]) for r in rows])


def factory(case: str, model: Path, folder: Path, kind: str) -> dict[str, Any]:
    """One run of LLaMA-Factory's trainer, its model loader and its collator: ``default`` or ``tuned``, as for TRL.

    It imports torchaudio, of which there is no build for this PyTorch on a CPU; text does not need it.
    """
    sys.modules.setdefault("torchaudio", module_from_spec(ModuleSpec("torchaudio", None)))
    from datasets import Dataset
    from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_model, load_tokenizer
    from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer

    method = CASES[case][0]
    rows = json.loads((folder / "rows.json").read_text())
    kind_of, losses, seconds = watched(CustomSeq2SeqTrainer)
    with tempfile.TemporaryDirectory() as out:
        asked = {
            "stage": "sft", "do_train": True, "model_name_or_path": str(model), "template": "chatml", "dataset": "none",
            "finetuning_type": method, "output_dir": out, "per_device_train_batch_size": BATCH, "num_train_epochs": 1.0,
            "learning_rate": LEARNING_RATE[method], "lr_scheduler_type": "constant", "warmup_steps": 0,
            "optim": "adamw_torch_fused", "weight_decay": 0.0, "max_grad_norm": 1.0, "bf16": False, "fp16": False,
            "use_cpu": True, "report_to": "none", "save_strategy": "no", "logging_steps": 1, "disable_shuffling": True,
            "disable_gradient_checkpointing": kind == "tuned", "dataloader_num_workers": 0, "disable_tqdm": True,
            **({"adapter_name_or_path": str(folder / "adapter")} if method == "lora" else {}),
        }  # fmt: skip
        model_args, data_args, training_args, finetuning_args, _ = get_train_args(asked)
        tools = load_tokenizer(model_args)
        template = get_template_and_fix_tokenizer(tools["tokenizer"], data_args)
        network = load_model(tools["tokenizer"], model_args, finetuning_args, is_trainable=True)
        collator = SFTDataCollatorWith4DAttentionMask(
            template=template, model=network, pad_to_multiple_of=8, label_pad_token_id=-100,
            attn_implementation=network.config._attn_implementation, compute_dtype=model_args.compute_dtype, **tools,
        )  # fmt: skip
        data = Dataset.from_list(
            [
                {"input_ids": r["input_ids"], "attention_mask": [1] * len(r["input_ids"]), "labels": labels_of(r)}
                for r in rows
            ]
        )
        trainer = kind_of(
            model=network, args=training_args, finetuning_args=finetuning_args, data_collator=collator,
            train_dataset=data, **tools,
        )  # fmt: skip
        begun = time.process_time()
        trainer.train()
        spent = time.process_time() - begun
    return summary(losses, seconds, spent, [len(r["input_ids"]) for r in rows])


def watched(base: type) -> tuple[Any, list[float], list[float]]:
    """A Trainer that notes the loss and the seconds of each step, and the lists it writes them to."""
    from transformers import TrainerCallback

    losses: list[float] = []
    seconds: list[float] = []
    begun = 0.0

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - begun)

    class Watched(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs, callbacks=[Clock()])

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            out = super().compute_loss(*args, **kwargs)
            losses.append(float((out[0] if isinstance(out, tuple) else out).detach()))
            return out

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            nonlocal begun
            begun = time.perf_counter()
            return super().training_step(*args, **kwargs)

    return Watched, losses, seconds


def labels_of(row: dict[str, list[int]]) -> list[int]:
    """Token ids where there is a loss, -100 elsewhere."""
    return [t if m else -100 for t, m in zip(row["input_ids"], row["loss_mask"], strict=True)]


def summary(losses: list[float], seconds: list[float], spent_s: float, lengths: list[int]) -> dict[str, Any]:
    tokens = [sum(lengths[s * BATCH : s * BATCH + BATCH]) for s in range(len(seconds))]
    return {
        "losses": losses,
        "tokens_per_s": sum(tokens[2:]) / sum(seconds[2:]),
        "tokens_per_processor_s": sum(tokens) / spent_s,
        "peak_bytes": harness.peak_bytes(),
    }


def gate(results: dict[str, list[dict[str, Any]]], reference: str) -> dict[str, bool]:
    """Arm -> whether its losses are those of the plain computation."""
    want = results[reference][0]["losses"]
    ok = {}
    for name, runs in results.items():
        gaps = [abs(a - b) for run in runs for a, b in zip(run["losses"], want, strict=True)]
        firsts = [abs(run["losses"][0] - want[0]) for run in runs]
        ok[name] = max(firsts) <= FIRST_STEP and max(gaps) <= LATER_STEPS
        print(
            f"  {name}: first step differs by {max(firsts):.1e}, all steps by at most {max(gaps):.1e}", file=sys.stderr
        )
    return ok


def arms(case: str, model: Path, folder: Path, peer: str, rival: str) -> list[harness.Arm]:
    def arm(name: str, python: str, who: str, kind: str, **more: str) -> harness.Arm:
        command = [python, __file__, "--arm", who, kind, case, str(model), str(folder)]
        return harness.Arm(name, command, {"HF_HUB_OFFLINE": "1", **more})

    return [
        arm("tuneloop", sys.executable, "ours", "shared"),
        arm("TRL tuned", peer, "trl", "tuned"),
        arm("LLaMA-Factory tuned", rival, "factory", "tuned"),
        arm("tuneloop, prefixes not shared", sys.executable, "ours", "flat"),
        arm("TRL tuned, memory kept by glibc", peer, "trl", "tuned", **MALLOC),
        arm("TRL default", peer, "trl", "default"),
        arm(ORACLE, sys.executable, "ours", "plain"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    parser.add_argument("--arms", nargs="*", help="only these, by name; the oracle is always there")
    parser.add_argument("--data", type=Path, default=harness.ROOT.parent / "shared" / "data" / "intent_en")
    parser.add_argument("--arm", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        who, kind, case, model, folder = options.arm
        result = {"ours": ours, "trl": trl, "factory": factory}[who](case, Path(model), Path(folder), kind)
        print(json.dumps(result))
        return
    if not (options.data / "banking77_train.csv").exists():
        sys.exit(
            f"error: {options.data}: no banking77_train.csv\nhint: --data FOLDER with PolyAI's Banking77 CSV files"
        )
    from tuneloop.models import ModelConfig, resolve

    model = resolve(ModelConfig(name="smollm2-135m-instruct"))
    peer, rival = harness.peer_python("trl", PEER), harness.peer_python("llamafactory", FACTORY, without=UNBUILT)
    versions = {"torch": "2.13.0", **dict(p.split("==") for p in PEER + FACTORY)}
    lines = []
    for case in options.cases:
        print(f"{case}:", file=sys.stderr)
        with tempfile.TemporaryDirectory() as name:
            prepare(case, options.data, model, Path(name), options.steps)
            chosen = [
                a
                for a in arms(case, model, Path(name), peer, rival)
                if not options.arms or a.name in {*options.arms, ORACLE}
            ]
            results = harness.interleave(chosen, options.rounds)
        ok = gate(results, ORACLE)
        command = f"python benchmarks/train_cpu.py --rounds {options.rounds} --steps {options.steps} --cases {case}"
        for name, runs in results.items():
            for metric, key, unit, scale in METRICS:
                values = [r[key] / scale for r in runs]
                ratios = [a / (b[key] / scale) for a, b in zip(values, results.get("TRL tuned", []), strict=False)]
                if not ok[name] and unit.startswith("tokens"):
                    print(f"  {name}: no speed number, its losses differ", file=sys.stderr)
                    continue
                lines.append(harness.line("train_cpu", case, name, metric, unit, values, against="TRL tuned",
                                          ratios=ratios, ok=ok[name], command=command, versions=versions))  # fmt: skip
    kept = [row for row in harness.read("train_cpu") if row["case"] not in options.cases]
    lines = [*kept, *lines]
    print(harness.write("train_cpu", lines))


if __name__ == "__main__":
    main()
