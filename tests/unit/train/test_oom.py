from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.unit.train.runs import fit, loop_of, losses, rows, settings, weights
from tuneloop.errors import Interrupted, ResourceError
from tuneloop.train.objectives import Objective
from tuneloop.train.oom import Passes, is_out_of_memory
from tuneloop.types import Example

CPU_WORDS = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to ..."


class Small:
    """Stands for a machine whose memory holds passes of at most ``limit`` tokens. It fails in the backward pass, when
    gradients of the pass before are there already."""

    def __init__(self, inner: Objective, limit: int, error: Exception) -> None:
        self.inner, self.limit, self.error, self.failed = inner, limit, error, 0
        self.passes: list[int] = []

    def __call__(self, model: torch.nn.Module, examples: Sequence[Example]) -> torch.Tensor:
        loss = self.inner(model, examples)
        tokens = sum(len(e.input_ids) for e in examples)
        self.passes.append(tokens)
        if tokens > self.limit:
            loss.register_hook(self._fail)
        return loss

    def _fail(self, _gradient: torch.Tensor) -> None:
        self.failed += 1
        raise self.error


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), MemoryError(), RuntimeError(CPU_WORDS)],
    ids=lambda e: type(e),
)
def test_a_step_that_does_not_fit_has_the_loss_and_the_weights_of_one_that_does(
    tmp_path: Path, error: Exception
) -> None:
    config = settings(accumulation_steps=2)
    roomy, _ = fit(config, tmp_path / "roomy")
    tight, _ = fit(config, tmp_path / "tight", wrap=lambda o: Small(o, 30, error))
    assert tight.objective.failed  # type: ignore[attr-defined]
    assert losses(tmp_path / "tight") == pytest.approx(losses(tmp_path / "roomy"), abs=1e-5)
    for name, value in weights(tight).items():
        torch.testing.assert_close(value, weights(roomy)[name], atol=1e-4, rtol=0)


def test_the_size_is_remembered_for_the_following_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop, _ = fit(settings(), tmp_path, wrap=lambda o: Small(o, 34, MemoryError()))
    assert loop.objective.failed == 1  # type: ignore[attr-defined]
    assert loop.passes.limit_tokens is not None
    assert capsys.readouterr().err.count("warning: out of memory") == 1


def test_a_resumed_run_does_not_run_into_the_same_wall(tmp_path: Path) -> None:
    first = loop_of(settings(checkpoint={"every_steps": 1}), tmp_path, wrap=lambda o: Small(o, 34, MemoryError()))
    step = first._after

    def stop(number: int) -> None:
        step(number)
        raise Interrupted("stopped")

    first._after = stop  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        first.run()
    again, _ = fit(settings(), tmp_path, wrap=lambda o: Small(o, 34, MemoryError()))
    assert again.passes.limit_tokens == first.passes.limit_tokens
    assert again.objective.failed == 0  # type: ignore[attr-defined]


def test_dropout_draws_the_same_masks_when_a_step_is_repeated() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    drawn: list[float] = []

    def run(passes: Sequence[Sequence[Example]]) -> None:
        drawn.append(torch.rand(1).item())
        if len(drawn) == 1:
            raise MemoryError

    torch.manual_seed(3)
    Passes().attempt(torch.optim.SGD([parameter]), [rows(4)], run)
    assert drawn[0] == drawn[1]


def test_gradients_of_the_failed_attempt_are_dropped() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    seen: list[object] = []

    def run(passes: Sequence[Sequence[Example]]) -> None:
        seen.append(parameter.grad)
        parameter.grad = torch.ones(1)
        if len(seen) == 1:
            raise MemoryError

    Passes().attempt(torch.optim.SGD([parameter]), [rows(4)], run)
    assert seen == [None, None]


def test_a_row_that_does_not_fit_alone_is_named_with_its_tokens(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"row row\d+ \(17 tokens\) does not fit into memory, alone") as error:
        fit(settings(), tmp_path, wrap=lambda o: Small(o, 5, MemoryError()))
    assert "max_length_tokens" in (error.value.hint or "")


def test_the_optimizer_is_not_run_twice(tmp_path: Path) -> None:
    loop = loop_of(settings(), tmp_path)

    def full(*_: object) -> None:
        raise MemoryError("moments")

    loop.optimizer.register_step_pre_hook(full)
    with pytest.raises(ResourceError, match="the state of the optimizer does not fit"):
        loop.run()


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        fit(settings(), tmp_path, wrap=lambda o: Small(o, 5, RuntimeError("shapes do not match")))


def test_rows_are_halved_until_they_are_within_the_limit() -> None:
    passes = Passes()
    passes.limit_tokens = 10
    sizes = [3, 3, 3, 3, 12, 1]
    made = [Example(str(i), (7,) * n, (True,) * n) for i, n in enumerate(sizes)]
    # 3 3 3 | 3 12 1 -> 3 3 3 | 3 | 12 1 -> ... 12 stays alone
    assert [[e.id for e in micro] for micro in passes.cut([made])] == [["0", "1", "2"], ["3"], ["4"], ["5"]]


def test_the_allocator_of_this_pytorch_says_what_is_looked_for() -> None:
    """The real error of a process whose address space is limited."""
    code = (
        "import torch, resource, sys\n"
        "from tuneloop.train.oom import is_out_of_memory\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 10**8, used + 10**8))\n"
        "try:\n    torch.empty(10**9)\n"
        "except Exception as error:\n    sys.exit(0 if is_out_of_memory(error) else repr(error))\n"
        "sys.exit('it fitted')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_an_ordinary_runtime_error_is_not_out_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
