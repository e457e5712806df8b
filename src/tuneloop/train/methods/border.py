"""Cached activations: what frozen layers give for a row never changes, so it is computed once.

Let k be the lowest layer that trains. The hidden states that enter layer k are computed for every row in one pass without
gradients, stored in a file (activations.py), and a training step begins at layer k. Every visit of a row but the first
then saves k layers of the forward pass; the first visit is the pass that is made beforehand.

Whether a run uses a cache is decided once and written down: the two ways round differently, and a resumed run must
compute the same numbers.

    <stage>/activations/decision.json  {"why": null}, or why there is no cache
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from tuneloop.errors import ModelError
from tuneloop.models import Forest, backbone, causal_model
from tuneloop.progress import log
from tuneloop.rundir import write_atomic
from tuneloop.train.config import TrainConfig
from tuneloop.train.methods.activations import Border, Cache, view_of
from tuneloop.train.plan import BatchPlan
from tuneloop.types import Example

if TYPE_CHECKING:
    from tuneloop.train.objectives import Objective

FOLDER, DECISION = "activations", "decision.json"
SPARE_BYTES = 1_000_000_000
"""Left free on the disk for checkpoints."""

TOLERANCE, TOLERANCE_16_BIT = 1e-4, 2e-2
"""How far the loss of a row over the cache may be from the whole computation, relative to it (checked at the start)."""


def tail_of(model: nn.Module, border: Border, input_ids_1T: Tensor, activations_1TC: Tensor) -> nn.Module:
    """A view of a causal model that begins at the border, for these tokens and what enters its layer for them."""
    causal, decoder = causal_model(model), cast("Any", backbone(model))
    given = _Given(input_ids_1T, activations_1TC)
    part = view_of(
        decoder, layers=decoder.layers[border.layer :], **{_name_in(decoder, decoder.get_input_embeddings()): given}
    )
    return view_of(causal, **{_name_in(causal, decoder): part})


def _name_in(parent: nn.Module, child: nn.Module) -> str:
    return next(name for name, module in parent.named_children() if module is child)


class _Given(nn.Module):
    """Stands where the embedding was: gives the activations of exactly the tokens it was made for.

    Tokens that fill the row up at its end (id 0, seen by nobody, without a label) get those of its first token.
    """

    def __init__(self, input_ids_1T: Tensor, activations_1TC: Tensor) -> None:
        super().__init__()
        self.input_ids_1T, self.activations_1TC = input_ids_1T, activations_1TC

    def forward(self, input_ids_1T: Tensor) -> Tensor:
        count = self.input_ids_1T.shape[1]
        if not torch.equal(input_ids_1T[:, :count], self.input_ids_1T) or bool(input_ids_1T[:, count:].any()):
            raise ModelError(
                "the objective computes other tokens than the rows of its batch",
                hint="set train.memory.cache_activations=false",
            )
        filler = self.activations_1TC[:, :1].expand(-1, input_ids_1T.shape[1] - count, -1)
        return torch.cat([self.activations_1TC, filler], 1)


class FromBorder:
    """An objective that begins at the border for rows in the cache, and with the whole model for others."""

    def __init__(self, inner: Objective, cache: Cache, *, share_prefixes: bool) -> None:
        self.inner, self.cache, self.share_prefixes = inner, cache, share_prefixes

    def __call__(self, model: nn.Module, examples: Sequence[Example]) -> Tensor:
        rows = [e.input_ids for e in examples]
        if any(row not in self.cache.where for row in rows):
            return self.inner(model, examples)
        forest = Forest.grow(rows, share=self.share_prefixes)
        ids = torch.tensor([forest.tokens], device=self.cache.device)
        given = self.cache.gather(forest.places, rows, len(forest.tokens))
        return self.inner(tail_of(model, self.cache.border, ids, given), examples)

    def __getattr__(self, name: str) -> Any:
        """Whatever else the objective offers."""
        return getattr(self.inner, name)

    @torch.no_grad()
    def flaw(self, model: nn.Module, example: Example) -> str | None:
        """Why the loss of a row over the cache is not that of the whole computation; None when it is."""
        model.eval()  # the loop puts it back before each step
        try:
            whole, ours = self.inner(model, [example]), self(model, [example])
        except ModelError as error:
            return str(error)
        gap = float((ours - whole).abs() / whole.abs().clamp(min=1e-6))
        allowed = TOLERANCE if self.cache.dtype == torch.float32 else TOLERANCE_16_BIT
        return f"over the cache a row's loss is {gap:.1e} off" if gap > allowed else None


def from_border(
    model: nn.Module,
    objective: Objective,
    examples: Sequence[Example],
    validation: Sequence[Example],
    plan: BatchPlan,
    config: TrainConfig,
    folder: Path,
) -> Objective:
    """The objective over cached activations where that is possible and pays; otherwise the objective as it is.

    Args:
        model: Prepared by its method.
        objective: What is minimised.
        examples: Training rows.
        validation: Rows to watch; they are cached too.
        plan: Which rows are visited how often.
        config: Of the stage.
        folder: Of the stage's checkpoints.

    Raises:
        ResourceError: The disk is full.
    """
    if not (config.trains_last_layers and config.memory.cache_activations):
        return objective
    ours = _over_cache(model, objective, examples, validation, plan, config, folder)
    if isinstance(ours, str):
        log(f"  frozen layers are computed in every step: {ours}")
        return objective
    return ours


def _over_cache(
    model: nn.Module,
    objective: Objective,
    examples: Sequence[Example],
    validation: Sequence[Example],
    plan: BatchPlan,
    config: TrainConfig,
    folder: Path,
) -> FromBorder | str:
    """The objective over the cache, or why there is none."""
    if why := _ruled_out(config):
        return why
    border = Border.of(model)
    if border is None:
        return "the embedding or the first layer trains, or this architecture is not one of those that can be cut"
    if why := border.noise():
        return why
    visits = [examples[i].input_ids for step in plan.steps for micro in step for i in micro]
    watched = [e.input_ids for e in validation]
    times = len(plan.steps) // every if (every := config.validation.every_steps) else len(plan.epoch_ends)
    cache = Cache(folder / FOLDER, model, border, visits + (watched if times else []))
    if why := _decide(cache, sum(map(len, visits)) + times * sum(map(len, watched)), plan.hash):
        return why
    log(
        f"  layers below {border.layer} are frozen: what they give for {len(cache.where):,} rows is computed once "
        f"({cache.bytes / 1e9:.2f} GB on disk)"
    )
    cache.open()
    ours = FromBorder(objective, cache, share_prefixes=config.memory.share_prefixes)
    return ours.flaw(model, examples[plan.steps[0][0][0]]) or ours


def forget(folder: Path) -> None:
    """Remove the cache of a finished stage."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def _ruled_out(config: TrainConfig) -> str | None:
    if config.optimizer.neftune_alpha > 0:
        return "NEFTune adds noise to the embeddings"
    if not config.memory.padding_free:
        return "memory.padding_free is off"
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return "several processes share the rows"
    return None


def _decide(cache: Cache, visited_tokens: int, plan_hash: str) -> str | None:
    """Why the cache is not used; None when it is. Decided once a stage: a resumed run must compute the same numbers."""
    path = cache.folder / DECISION
    if path.exists() and (said := json.loads(path.read_text()))["plan_hash"] == plan_hash:
        return None if said["why"] is None else str(said["why"])
    free = shutil.disk_usage(_existing(cache.folder)).free
    once = sum(map(len, cache.where))
    why = None
    if visited_tokens <= once:
        why = "no row is visited twice, so there is nothing to save"
    elif cache.bytes + SPARE_BYTES > free:
        why = f"their activations would take {cache.bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free on the disk"
    write_atomic(path, json.dumps({"why": why, "plan_hash": plan_hash}))
    return why


def _existing(folder: Path) -> Path:
    return next(p for p in (folder, *folder.parents) if p.exists())
