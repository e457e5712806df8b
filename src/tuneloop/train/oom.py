"""A step that does not fit into memory is computed again in smaller passes: same rows, same weights, same loss.

The rows of a pass that failed are halved until each pass fits; the sum over passes is the same sum (the loss is divided by
the weight of the whole step), so only its rounding changes. How small a pass must be is remembered for the steps that
follow and is in every checkpoint: a resumed run does not run into the same wall, and cuts where the first one cut.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import torch

from tuneloop.errors import ResourceError, first_line
from tuneloop.progress import log
from tuneloop.types import Example

R = TypeVar("R")
Rows = Sequence[Sequence[Example]]

SMALLER = "train.memory.checkpointing=on, a shorter train.max_length_tokens, or method: lora instead of full"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: on a GPU, in PyTorch's CPU allocator, or in Python."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


class Passes:
    """Companion of the loop: how many tokens one pass may hold on this machine, learned when one did not fit."""

    name = "passes"

    def __init__(self) -> None:
        self.limit_tokens: int | None = None
        """The most tokens of a pass of several rows; None until a step failed."""

    def before_step(self, step: int) -> None:
        """Nothing to do."""

    def after_step(self, step: int) -> None:
        """Nothing to do."""

    def state_dict(self) -> dict[str, Any]:
        return {"limit_tokens": self.limit_tokens}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.limit_tokens = state["limit_tokens"]

    def cut(self, rows: Rows) -> list[list[Example]]:
        """The micro-batches of a step, halved by rows until each is within the limit (a longer row stays alone)."""
        out: list[list[Example]] = []
        todo = [list(micro) for micro in reversed(rows)]
        while todo:
            micro = todo.pop()
            if self.limit_tokens is None or len(micro) == 1 or _tokens(micro) <= self.limit_tokens:
                out.append(micro)
            else:
                middle = len(micro) // 2
                todo += [micro[middle:], micro[:middle]]
        return out

    def attempt(self, optimizer: torch.optim.Optimizer, rows: Rows, run: Callable[[Rows], R]) -> R:
        """Compute a step, in smaller passes if it does not fit.

        Args:
            optimizer: Its gradients are dropped before the step is repeated.
            rows: The micro-batches of the step.
            run: Computes the step. Until it moves the weights it may be repeated: the random numbers are set back, so
                that a step draws the same ones however often it was begun.

        Raises:
            ResourceError: A single row does not fit, the optimizer's own state does not, or another process takes part
                in the step (the others wait for this one, so no process may change its passes alone).
        """
        random = _random_state()
        while True:
            passes = self.cut(rows)
            try:
                return run(passes)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                why = _why_not_again(error)
                said = first_line(error)
            # Outside of the handler: the exception's frames would keep the activations of the failed pass.
            optimizer.zero_grad(set_to_none=True)
            free_memory()
            if why:
                raise ResourceError(f"{why} ({said})", hint=SMALLER)
            self._shrink(passes)
            _restore(random)

    def _shrink(self, passes: Rows) -> None:
        several = [micro for micro in passes if len(micro) > 1]
        if not several:
            longest = max((micro[0] for micro in passes), key=lambda e: len(e.input_ids))
            raise ResourceError(
                f"row {longest.id} ({len(longest.input_ids):,} tokens) does not fit into memory, alone in its pass",
                hint=SMALLER,
            )
        first = self.limit_tokens is None
        self.limit_tokens = max(map(_tokens, several)) // 2
        if first:
            log(
                f"  warning: out of memory; the step is repeated, and passes hold at most {self.limit_tokens:,} tokens "
                f"from now on (same loss, slower)\n"
                f"  to save the attempt next time: train.memory.max_tokens_per_pass={self.limit_tokens}"
            )


def _tokens(micro: Sequence[Example]) -> int:
    return sum(len(e.input_ids) for e in micro)


def _why_not_again(error: BaseException) -> str | None:
    """What makes a repetition impossible; None when nothing does."""
    if _in_optimizer(error.__traceback__):  # some weights may have moved already
        return "the state of the optimizer does not fit into memory"
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    if together and torch.distributed.get_world_size() > 1:
        return "a pass does not fit into the memory of this process; lower train.memory.max_tokens_per_pass"
    return None


def _in_optimizer(trace: TracebackType | None) -> bool:
    while trace is not None:
        if isinstance(trace.tb_frame.f_locals.get("self"), torch.optim.Optimizer):
            return True
        trace = trace.tb_next
    return False


def _random_state() -> tuple[Any, Any]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def _restore(state: tuple[Any, Any]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])


def free_memory() -> None:
    """Give back what a failed pass held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
