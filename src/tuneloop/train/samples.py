"""Answers of the model in training for a few validation rows: what the loss does not show.

The prompt is the row's own tokens up to its last answer, which are the tokens that serving sends; the answer is greedy. Each
goes to samples.jsonl as ``step, id, prompt, answer, reference``.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tuneloop.chat import Chat
from tuneloop.models import causal_model, quiet, use_own
from tuneloop.progress import log
from tuneloop.rundir import RunDir, write_atomic
from tuneloop.types import Example

SAMPLES = "samples.jsonl"
MAX_NEW_TOKENS = 64
SHOWN = 60
"""Characters of an answer in the log."""


class Sampler:
    """Asks the model the same questions at every validation.

    Args:
        chat: Tokenizer and template of the run.
        examples: The rows to ask.
        out: The run.
    """

    def __init__(self, chat: Chat, examples: Sequence[Example], out: RunDir) -> None:
        self.chat, self.examples, self.out = chat, [e for e in examples if e.label_tokens], out

    def resume_at(self, step: int) -> None:
        """Drop what was written after the checkpoint that the run continues from."""
        if (self.out / SAMPLES).exists():
            kept = [line for line in read(self.out) if line["step"] <= step]
            write_atomic(self.out / SAMPLES, "".join(_line(row) for row in kept))

    def ask(self, model: nn.Module, step: int) -> None:
        """Answer every row and write the answers down.

        Args:
            model: The prepared model; its mode and its attention are as before when this returns.
            step: After which step.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return  # shards of a model cannot answer on one process alone
        rows = []
        for example in self.examples:
            prompt, reference = split(example)
            answer = generate(model, self.chat, prompt)
            rows.append(
                {
                    "step": step,
                    "id": example.id,
                    "prompt": self.chat.tokenizer.decode(prompt),
                    "answer": self.chat.decode(answer),
                    "reference": self.chat.decode(reference),
                }
            )
            log(
                f"  sample {example.id[:12]}: {_short(rows[-1]['answer'])!r} (wanted {_short(rows[-1]['reference'])!r})"
            )
        with (self.out / SAMPLES).open("a", encoding="utf-8") as file:
            file.writelines(map(_line, rows))


def read(out: RunDir) -> list[dict[str, Any]]:
    """The samples of a run, in the order they were taken."""
    with (out / SAMPLES).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


def split(example: Example) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids of the prompt and of the last answer of a row."""
    end = max(i for i, counted in enumerate(example.loss_mask) if counted) + 1
    start = end
    while start > 0 and example.loss_mask[start - 1]:
        start -= 1
    return example.input_ids[:start], example.input_ids[start:end]


@torch.no_grad()
def generate(model: nn.Module, chat: Chat, prompt: Sequence[int], max_new_tokens: int = MAX_NEW_TOKENS) -> list[int]:
    """The greedy answer to a prompt, as token ids.

    The flat attention of training has no cache for keys and values, so the model answers with PyTorch's own.
    """
    from transformers import GenerationConfig

    inner: Any = causal_model(model)
    caller: Any = model
    attention, training, cached = inner.config._attn_implementation, model.training, inner.config.use_cache
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(chat.stop_ids),
        pad_token_id=chat.stop_ids[0],
    )
    ids_1T = torch.tensor([list(prompt)], device=next(model.parameters()).device)
    use_own(model)
    model.eval()
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of transformers, about settings that a greedy answer does not use
            out_1T = caller.generate(
                input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T), generation_config=settings, use_cache=True
            )
    finally:
        use_own(model, attention)
        inner.config.use_cache = cached
        model.train(training)
    return [int(i) for i in out_1T[0, len(prompt) :]]


def _line(row: Any) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
