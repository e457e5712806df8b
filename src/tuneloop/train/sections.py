"""The sections of the training configuration: what trains, how the optimizer moves, how the run is watched and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from tuneloop.config import Config
from tuneloop.models import looks_local


class LoraConfig(Config):
    """Low-rank adapters (Hu et al., 2021, arXiv:2106.09685): B starts at zero, so the start is the base model."""

    rank: int = Field(16, ge=1, le=1024)
    """Rank of each adapter."""

    alpha: float = Field(32.0, gt=0)
    """Scale: the update is alpha / rank times B A (rslora: alpha / sqrt(rank))."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""

    targets: str | tuple[str, ...] = "all-linear"
    """'all-linear' (every linear layer but the output head), 'attention', 'mlp', or names of layers."""

    last_layers: int | None = Field(None, ge=1)
    """Only this many layers at the end take adapters; default: all layers."""

    experts: bool = True
    """Whether 'all-linear' and 'mlp' also adapt the routed experts of a mixture (3-D parameters)."""

    plus_ratio: float = Field(16.0, ge=1)
    """lora+: the learning rate of B over that of A (Hayou et al., 2024, arXiv:2402.12354: 16)."""

    @field_validator("targets")
    @classmethod
    def _some_target(cls, targets: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not targets:
            raise ValueError("names no layer\nhint: all-linear, attention, mlp, or names of layers")
        return targets

    @model_validator(mode="before")
    @classmethod
    def _targets(cls, tree: object) -> object:
        if isinstance(tree, dict) and isinstance(tree.get("targets"), str):
            text = tree["targets"]
            if text in ("attention", "mlp"):
                return tree
            everything = text in ("all", "all-linear")
            return {
                **tree,
                "targets": "all-linear" if everything else tuple(t.strip() for t in text.split(",") if t.strip()),
            }
        return tree


class FreezeConfig(Config):
    """Which part of the model trains when the rest is frozen."""

    last_layers: int = Field(2, ge=0)
    """This many layers at the end train."""

    modules: tuple[str, ...] = ()
    """These layers train besides: parts of parameter names, e.g. 'embed_tokens', 'layers.3.mlp'."""

    head: bool = True
    """Whether the output head and the last norm train (an output head tied to the embedding stays frozen)."""


class PrefixConfig(Config):
    """Prefix tuning (Li & Liang, 2021, arXiv:2101.00190) and prompt tuning (Lester et al., 2021, arXiv:2104.08691)."""

    tokens: int = Field(32, ge=1, le=1024)
    """Virtual tokens that every row begins with."""


class SelectConfig(Config):
    """Train only the layers that matter, chosen by measured gradient norm, and choose again (after LISA, arXiv:2403.17919)."""

    layers: int = Field(4, ge=1)
    """Layers that train at a time."""

    every_steps: int = Field(50, ge=1)
    """Choose again after this many optimizer steps."""

    sample_rows: int = Field(16, ge=1)
    """Rows whose gradients are measured for a choice."""


class DistilConfig(Config):
    """Learning from a teacher's logits."""

    teacher: str
    """Name or folder of the teacher; its vocabulary must be the student's."""

    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    """forward_kl: KL(teacher | student), covers the teacher; reverse_kl: seeks its peaks; jsd: between them."""

    temperature: float = Field(1.0, gt=0)
    """Both distributions are softened by it and the loss is scaled by its square (Hinton et al., 2015, arXiv:1503.02531).
    Over a whole vocabulary much more than 1 gives most of the mass to words that mean nothing."""

    alpha: float = Field(0.5, ge=0, le=1)
    """Weight of the teacher; the labels weigh 1 - alpha."""

    beta: float = Field(0.5, gt=0, lt=1)
    """jsd: how much of the teacher is in the mixture (Agarwal et al., 2024, arXiv:2306.13649)."""

    top_k: int = Field(0, ge=0)
    """0: the teacher runs beside the student. Otherwise its k best tokens and the mass of the rest are computed once."""

    @field_validator("teacher")
    @classmethod
    def _relative_to_file(cls, name: str, info: ValidationInfo) -> str:
        folder = (info.context or {}).get("folder")
        if folder is None or not looks_local(name) or Path(name).expanduser().is_absolute():
            return name
        return str(Path(folder) / name)


class OptimizerConfig(Config):
    """AdamW (Loshchilov & Hutter, 2019) and how its rate moves."""

    name: Literal["adamw", "adamw_8bit"] = "adamw"
    """adamw_8bit keeps its moments in 8 bits (bitsandbytes; a GPU only)."""

    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """How the learning rate falls after the warm-up (to zero, except 'constant'); wsd stays at its peak and falls at the end."""

    warmup_ratio: float = Field(0.03, ge=0, le=1)
    """Share of the steps in which the learning rate rises linearly."""

    warmup_steps: int | None = Field(None, ge=0)
    """The same in steps; wins over ``warmup_ratio``."""

    decay_ratio: float = Field(0.1, gt=0, le=1)
    """wsd: share of the steps in which the rate falls (Hu et al., 2024, arXiv:2404.06395: 0.1)."""

    weight_decay: float = Field(0.0, ge=0)
    """Decoupled decay; never applied to biases and norms."""

    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the mean of gradients."""

    beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of the mean of squared gradients."""

    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""

    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Above 0: an exponential moving average of the weights is kept and becomes the result."""

    neftune_alpha: float = Field(0.0, ge=0)
    """Above 0: uniform noise on the embeddings, alpha / sqrt(tokens x width) (Jain et al., 2023, arXiv:2310.05914: 5)."""


class ValidationConfig(Config):
    """How the run is watched on rows it does not learn from."""

    every_steps: int = Field(0, ge=0)
    """Validation loss every so many steps; 0: at the end of each epoch."""

    metric: Literal["validation_loss", "loss", "grad_norm", "learning_rate", "tokens_per_s", "memory_bytes", "mfu"] = (
        "validation_loss"
    )
    """What ``patience`` and ``keep`` look at: a name in metrics.jsonl; lower is better unless ``higher_is_better``."""

    higher_is_better: bool = False
    """For a metric that should rise."""

    patience: int | None = Field(None, ge=1)
    """Stop after this many validations without improvement."""

    keep: Literal["last", "best"] | None = None
    """Whose weights become the result; default: best with ``patience``, else last."""

    samples: int = Field(0, ge=0)
    """Answers generated for this many validation rows at each validation, written to samples.jsonl."""

    @property
    def keeps_best(self) -> bool:
        return self.keep == "best" or (self.keep is None and self.patience is not None)


class CheckpointConfig(Config):
    """How much a killed run can lose."""

    every_steps: int = Field(50, ge=1)
    """A killed run loses at most this many steps."""

    every_minutes: float = Field(15.0, gt=0)
    """... and at most this much time."""

    keep: int = Field(2, ge=1)
    """Older checkpoints are removed."""


class MemoryConfig(Config):
    """How a step is computed. Nothing here changes the loss."""

    padding_free: bool = True
    """Run a batch as one flat row. False: the plain padded computation (the oracle; slower, same loss)."""

    share_prefixes: bool = True
    """Compute tokens that rows of a batch begin with once. Needs ``padding_free``; same loss."""

    cache_activations: bool = True
    """Where only layers at the end train: compute what the others give for each row once and keep it on disk."""

    checkpointing: Literal["auto", "on", "off"] = "auto"
    """Recompute activations in the backward pass; auto: only as many layers as the budget asks for."""

    compile: Literal["off", "auto", "on"] = "off"
    """torch.compile for the layers; auto: measured on rows of the run before its first step, and kept where it pays. Same
    loss, but a resumed run may round differently. Needs a C++ compiler (CPU) or Triton (GPU)."""

    budget_gb: float | None = Field(None, gt=0)
    """Memory the run may take; default: what is free when it starts."""

    over_budget: Literal["refuse", "warn"] = "refuse"
    """A run whose estimate does not fit is refused before anything is loaded, or begun with a warning."""

    max_tokens_per_pass: int | None = Field(None, ge=1)
    """Cut the rows of a step into passes of at most this many tokens (a longer row goes alone)."""

    @field_validator("checkpointing", "compile", mode="before")
    @classmethod
    def _switches_of_others(cls, said: object) -> object:
        return ("on" if said else "off") if isinstance(said, bool) else said


class ParallelConfig(Config):
    """How several processes (``torchrun``, ``accelerate launch``) share one run. Nothing here changes the loss."""

    strategy: Literal["auto", "ddp", "fsdp", "tensor", "deepspeed"] = "auto"
    """ddp: every process holds the whole model; fsdp: each holds a part of every layer (FSDP2); tensor: large matrices are
    cut by transformers' plan and all processes compute the same rows (methods full and freeze); deepspeed: ZeRO.
    auto: deepspeed if ``deepspeed`` is set, else ddp."""

    deepspeed: str | None = None
    """zero2, zero3, zero3_offload, or the path of a DeepSpeed JSON of your own (relative to the YAML file)."""

    cpu_offload: bool = False
    """fsdp: weights and moments live in host memory and visit the GPU layer by layer."""

    timeout_s: float = Field(1800.0, gt=0)
    """A process that waits longer than this for another one ends with an error."""

    @field_validator("deepspeed")
    @classmethod
    def _beside_the_yaml(cls, name: str | None, info: ValidationInfo) -> str | None:
        folder = (info.context or {}).get("folder")
        return str(Path(folder) / name) if name and name.endswith(".json") and folder else name

    @model_validator(mode="after")
    def _belongs_together(self) -> ParallelConfig:
        if self.strategy == "deepspeed" and self.deepspeed is None:
            raise ValueError("strategy: deepspeed needs a preset or a file\nhint: deepspeed: zero3")
        if self.deepspeed is not None and self.strategy not in ("auto", "deepspeed"):
            raise ValueError(
                f"deepspeed: {self.deepspeed} and strategy: {self.strategy} contradict each other\nhint: keep one"
            )
        if self.cpu_offload and self.strategy != "fsdp":
            raise ValueError("cpu_offload belongs to strategy: fsdp\nhint: with DeepSpeed: deepspeed: zero3_offload")
        return self

    @property
    def kind(self) -> Literal["ddp", "fsdp", "tensor", "deepspeed"]:
        """The strategy, decided."""
        if self.strategy == "auto":
            return "deepspeed" if self.deepspeed else "ddp"
        return self.strategy
