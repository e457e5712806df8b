"""What can be set about training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from tuneloop.config import Config

DEFAULT_LEARNING_RATE = {"lora": 2e-4, "full": 2e-5}


class LoraConfig(Config):
    """Low-rank adapters (Hu et al., 2021, arXiv:2106.09685): B starts at zero, so the start is the base model."""

    rank: int = Field(16, ge=1, le=1024)
    """Rank of each adapter."""

    alpha: float = Field(32.0, gt=0)
    """Scale: the update is alpha / rank times B A."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""

    targets: str | tuple[str, ...] = "all-linear"
    """'all-linear' (every linear layer but the output head), or names of layers."""

    @model_validator(mode="before")
    @classmethod
    def _targets(cls, tree: object) -> object:
        if isinstance(tree, dict) and isinstance(tree.get("targets"), str):
            text = tree["targets"]
            everything = text in ("all", "all-linear")
            return {**tree, "targets": "all-linear" if everything else tuple(t.strip() for t in text.split(","))}
        return tree


class TrainConfig(Config):
    """One training run."""

    aliases: ClassVar[Mapping[str, str]] = {
        "cutoff_len": "max_length_tokens",
        "max_length": "max_length_tokens",
        "max_seq_length": "max_length_tokens",
        "finetuning_type": "method",
        "train_type": "method",
        "tuner_type": "method",
        "per_device_train_batch_size": "batch_size",
        "gradient_accumulation_steps": "accumulation_steps",
        "num_train_epochs": "epochs",
        "lr": "learning_rate",
        "lr_scheduler_type": "schedule",
        "save_steps": "checkpoint_every_steps",
        "save_total_limit": "keep_checkpoints",
        "eval_steps": "validate_every_steps",
        "lora_rank": "lora.rank",
        "lora_alpha": "lora.alpha",
        "lora_dropout": "lora.dropout",
        "lora_target": "lora.targets",
        "target_modules": "lora.targets",
        "label_smoothing_factor": "label_smoothing",
    }

    method: Literal["lora", "full"] = "lora"
    """Which parameters train: low-rank adapters, or all of them."""

    lora: LoraConfig = LoraConfig()
    """Settings of the adapters."""

    epochs: float = Field(3.0, gt=0)
    """Passes over the training split; may be fractional."""

    max_steps: int | None = Field(None, ge=1)
    """Stop after this many optimizer steps, whatever ``epochs`` says."""

    batch_size: int = Field(8, ge=1)
    """Rows of one forward pass."""

    accumulation_steps: int = Field(1, ge=1)
    """Forward passes of one optimizer step; the loss is weighted by tokens over all of them."""

    learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate; default 2e-4 for adapters, 2e-5 for full fine-tuning."""

    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up (to zero, except 'constant')."""

    warmup_ratio: float = Field(0.03, ge=0, le=1)
    """Share of the steps in which the learning rate rises linearly."""

    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled decay; never applied to biases and norms."""

    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""

    max_length_tokens: int = Field(2048, ge=8)
    """Longer rows are left out and counted, never cut: a cut row would lose its end token."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the probability that goes to all tokens alike."""

    padding_free: bool = True
    """Run a batch as one flat row. False: the plain padded computation (the oracle; slower, same loss)."""

    share_prefixes: bool = True
    """Compute tokens that rows of a batch begin with once. Needs ``padding_free``; same loss."""

    validate_every_steps: int = Field(0, ge=0)
    """Validation loss every so many steps; 0: at the end of each epoch."""

    checkpoint_every_steps: int = Field(50, ge=1)
    """A killed run loses at most this many steps."""

    keep_checkpoints: int = Field(2, ge=1)
    """Older checkpoints are removed."""

    tensorboard: bool = True
    """Write TensorBoard event files beside metrics.jsonl."""

    @property
    def peak_learning_rate(self) -> float:
        return self.learning_rate or DEFAULT_LEARNING_RATE[self.method]
