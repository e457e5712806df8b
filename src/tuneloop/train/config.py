"""What can be set about training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from tuneloop.config import Config
from tuneloop.train.sections import (
    CheckpointConfig,
    DistilConfig,
    FreezeConfig,
    LoraConfig,
    MemoryConfig,
    OptimizerConfig,
    ParallelConfig,
    PrefixConfig,
    SelectConfig,
    ValidationConfig,
)

MethodName = Literal[
    "lora", "rslora", "dora", "lora+", "qlora", "full", "freeze", "prefix", "prompt", "select", "staged"
]  # fmt: skip
LORA_FAMILY = ("lora", "rslora", "dora", "lora+", "qlora")
ADAPTERS = (*LORA_FAMILY, "prefix", "prompt")
"""Methods that leave the base model's weights alone and save an adapter."""

DEFAULT_LEARNING_RATE: Mapping[str, float] = {
    **dict.fromkeys(LORA_FAMILY, 2e-4), "full": 2e-5, "freeze": 5e-5, "select": 5e-5, "prefix": 1e-2, "prompt": 3e-2,
}  # fmt: skip
"""Peak rates: adapters 2e-4 (Dettmers et al. 2023, table 9), full 2e-5; prefixes need rates of 1e-2 and more
(Lester et al. 2021, section 3.3: 0.3 with Adafactor)."""


class StageConfig(Config):
    """One stage of a staged run; what is not said here is as in ``train``."""

    aliases: ClassVar[Mapping[str, str]] = {
        "lr": "learning_rate",
        "num_train_epochs": "epochs",
        "finetuning_type": "method",
        "early_stopping_patience": "patience",
    }

    name: str | None = None
    """Shown in the log and the metrics."""

    method: MethodName | None = None
    """What trains in this stage."""

    epochs: float | None = Field(None, gt=0)
    """Passes over the training split."""

    max_steps: int | None = Field(None, ge=1)
    """At most this many optimizer steps."""

    learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate."""

    patience: int | None = Field(None, ge=1)
    """End the stage after this many validations without improvement; its best weights go on."""

    lora: LoraConfig | None = None
    """Settings of adapters in this stage."""

    freeze: FreezeConfig | None = None
    """What ``method: freeze`` trains in this stage."""

    select: SelectConfig | None = None
    """What ``method: select`` chooses in this stage."""


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
        "label_smoothing_factor": "label_smoothing",
        "lr_scheduler_type": "optimizer.schedule",
        "schedule": "optimizer.schedule",
        "warmup_ratio": "optimizer.warmup_ratio",
        "warmup_steps": "optimizer.warmup_steps",
        "weight_decay": "optimizer.weight_decay",
        "max_grad_norm": "optimizer.max_grad_norm",
        "neftune_noise_alpha": "optimizer.neftune_alpha",
        "checkpoint_every_steps": "checkpoint.every_steps",
        "save_steps": "checkpoint.every_steps",
        "keep_checkpoints": "checkpoint.keep",
        "save_total_limit": "checkpoint.keep",
        "validate_every_steps": "validation.every_steps",
        "eval_steps": "validation.every_steps",
        "early_stopping_patience": "validation.patience",
        "padding_free": "memory.padding_free",
        "share_prefixes": "memory.share_prefixes",
        "gradient_checkpointing": "memory.checkpointing",
        "torch_compile": "memory.compile",
        "lora_rank": "lora.rank",
        "lora_alpha": "lora.alpha",
        "lora_dropout": "lora.dropout",
        "lora_target": "lora.targets",
        "target_modules": "lora.targets",
        "loraplus_lr_ratio": "lora.plus_ratio",
        "freeze_trainable_layers": "freeze.last_layers",
        "freeze_trainable_modules": "freeze.modules",
        "num_virtual_tokens": "prefix.tokens",
        "report_to": "trackers",
        "deepspeed": "parallel.deepspeed",
        "ddp_timeout": "parallel.timeout_s",
    }

    incidental: ClassVar[tuple[str, ...]] = (
        "parallel",
        "checkpoint",
        "trackers",
        "validation.samples",
        "memory.over_budget",
    )

    method: MethodName = "lora"
    """What trains: adapters, all weights, a part of them, or ``stages`` one after another."""

    lora: LoraConfig = LoraConfig()
    """Settings of the LoRA family."""

    freeze: FreezeConfig = FreezeConfig()
    """What ``method: freeze`` trains."""

    prefix: PrefixConfig = PrefixConfig()
    """Settings of prefix and prompt tuning."""

    select: SelectConfig = SelectConfig()
    """Settings of ``method: select``."""

    stages: tuple[StageConfig, ...] = ()
    """Stages of ``method: staged``, in order."""

    objective: Literal["sft", "pretrain", "distil"] = "sft"
    """What is minimised: answers of conversations, all tokens of texts (continued pretraining), or distance to a teacher."""

    distil: DistilConfig | None = None
    """The teacher of ``objective: distil``."""

    epochs: float = Field(3.0, gt=0)
    """Passes over the training split; may be fractional."""

    max_steps: int | None = Field(None, ge=1)
    """Stop after this many optimizer steps, whatever ``epochs`` says."""

    batch_size: int = Field(8, ge=1)
    """Rows of one forward pass."""

    accumulation_steps: int = Field(1, ge=1)
    """Forward passes of one optimizer step; the loss is weighted by tokens over all of them."""

    tokens_per_step: int | None = Field(None, ge=1)
    """Gather rows until an optimizer step holds this many tokens, instead of a fixed number of rows."""

    learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate; default 2e-4 for adapters, 2e-5 for full fine-tuning, 5e-5 for parts, 1e-2 for prefixes."""

    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW, its schedule and its noise."""

    max_length_tokens: int = Field(2048, ge=8)
    """Longer rows are handled as ``too_long`` says, never cut silently: a cut row would lose its end token."""

    too_long: Literal["drop", "split", "fail"] | None = None
    """Rows over the limit: left out and counted; split into several between turns or (pretrain) anywhere; or an error.
    Default: split for pretrain, else drop."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the probability that goes to all tokens alike."""

    source_weights: Mapping[str, Annotated[float, Field(ge=0)]] = {}
    """Weight of the rows of a source: its file, table or maker, or a pattern ('faq*.jsonl'); others weigh 1."""

    weight_column: str | None = None
    """Column with the weight of each row; records keep it with ``data.keep_columns``. An empty one weighs 1."""

    validation: ValidationConfig = ValidationConfig()
    """When to look at validation rows, and when to stop."""

    checkpoint: CheckpointConfig = CheckpointConfig()
    """When the run is saved."""

    memory: MemoryConfig = MemoryConfig()
    """How a step is computed."""

    parallel: ParallelConfig = ParallelConfig()
    """How several processes share the work."""

    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    """Where metrics go besides metrics.jsonl."""

    @model_validator(mode="before")
    @classmethod
    def _words_of_others(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        tree = dict(tree)
        if isinstance(tree.get("trackers"), str):
            names = tuple(t.strip() for t in tree["trackers"].split(",") if t.strip())
            tree["trackers"] = tuple(t for t in names if t not in ("none", "all")) or (
                ("tensorboard",) if names == ("all",) else ()
            )
        if "tensorboard" in tree:  # the switch of earlier versions
            keeps = tree.pop("tensorboard")
            tree.setdefault("trackers", ("tensorboard",) if keeps else ())
        return tree

    @model_validator(mode="after")
    def _belongs_together(self) -> TrainConfig:
        if (self.method == "staged") != bool(self.stages):
            raise ValueError(
                "method: staged and stages belong together\nhint: stages: [{method: freeze, freeze.last_layers: 0}, {method: full}]"
            )
        if any(s.method == "staged" for s in self.stages):
            raise ValueError("a stage cannot be staged itself\nhint: list its stages here")
        methods = {s.method or "lora" for s in self.stages}
        if methods & {"prefix", "prompt"} and len(methods) > 1:
            raise ValueError(
                "a prefix cannot be merged into the weights, so it cannot follow or precede a stage of another method"
                "\nhint: train it in a run of its own, with model.name the bundle of this one"
            )
        if self.memory.compile != "off" and self.parallel.kind != "ddp":
            raise ValueError(
                f"memory.compile works in one process or with strategy ddp, and this is {self.parallel.kind}"
                "\nhint: memory.compile: off"
            )
        if (self.objective == "distil") != (self.distil is not None):
            raise ValueError(
                "objective: distil and the section distil belong together\nhint: distil: {teacher: NAME_OR_FOLDER}"
            )
        return self

    @property
    def peak_learning_rate(self) -> float:
        return self.learning_rate or DEFAULT_LEARNING_RATE[self.method]

    @property
    def trains_last_layers(self) -> bool:
        """Whether only layers at the end train, or parts that stand there."""
        return self.method == "freeze" or (self.method in LORA_FAMILY and self.lora.last_layers is not None)

    @property
    def handles_too_long(self) -> Literal["drop", "split", "fail"]:
        return self.too_long or ("split" if self.objective == "pretrain" else "drop")

    def for_a_few_steps(self) -> TrainConfig:
        """The same without what pays in a long run only: a teacher computed ahead, and weighing whether to compile."""
        distil = self.distil and self.distil.model_copy(update={"top_k": 0})
        compile = "off" if self.memory.compile == "auto" else self.memory.compile
        memory = self.memory.model_copy(update={"compile": compile})
        return self.model_copy(update={"distil": distil, "memory": memory})

    def phases(self) -> tuple[TrainConfig, ...]:
        """One configuration for each stage (of an ordinary run: itself)."""
        if not self.stages:
            return (self,)
        return tuple(self._phase(stage) for stage in self.stages)

    def _phase(self, stage: StageConfig) -> TrainConfig:
        said = {k: getattr(stage, k) for k in stage.model_fields_set if k not in ("name", "patience")}
        said = {k: v for k, v in said.items() if v is not None}
        said.setdefault("method", "lora")
        if stage.patience is not None:
            said["validation"] = self.validation.model_copy(update={"patience": stage.patience})
        return self.model_copy(update={**said, "stages": ()})


METHOD_NAMES: tuple[str, ...] = get_args(MethodName)
