"""The processes of one run: who am I, how many are we, and the few things they tell each other.

``torchrun`` and ``accelerate launch`` describe a process by RANK, WORLD_SIZE and LOCAL_RANK. Without them a run is a world of
one, which costs nothing. Small facts travel over gloo on the CPU, so that agreeing on them never waits for a GPU;
gradients travel over NCCL where there is one.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from tuneloop.errors import ConfigError, ResourceError, TuneloopError, need

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

POLL_S = 0.2
"""How often a waiting process asks whether there is work."""

JOB, END = "tuneloop/job", "tuneloop/end"
"""Keys of the store through which the main process hands out work."""


@dataclass(frozen=True, slots=True)
class World:
    """One process among ``size``. All methods are collective: every process calls them in the same order."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes, prints and decides."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.size == 1

    def guarded(self) -> AbstractContextManager[None]:
        """Around work that reaches other processes: says in two lines when one of them is gone."""
        return nullcontext() if self.alone else lost_neighbour()

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes, in float64."""
        return self._reduced(values, "SUM")

    def any(self, *flags: bool) -> list[bool]:
        """For each flag whether it is set in any process."""
        return [v > 0 for v in self._reduced([float(f) for f in flags], "MAX")]

    def _reduced(self, values: Sequence[float], how: str) -> list[float]:
        if self.alone:
            return list(values)
        import torch
        from torch import distributed as dist

        held = torch.tensor(values, dtype=torch.float64)
        with lost_neighbour():
            dist.all_reduce(held, getattr(dist.ReduceOp, how))
        return [float(v) for v in held.tolist()]

    def from_main(self, work: Callable[[], T]) -> T:
        """Do something in the main process only; everybody gets its result, or its error.

        Args:
            work: Returns something small that can be pickled.
        """
        if self.alone:
            return work()
        from torch import distributed as dist

        told: list[Any] = [None]
        if self.is_main:
            try:
                told = [(work(), None)]
            except TuneloopError as error:
                told = [(None, error)]
        with lost_neighbour():
            dist.broadcast_object_list(told, 0)
        value, failure = told[0]
        if failure is not None:
            raise failure
        return value  # type: ignore[no-any-return]

    def gather(self, value: T) -> list[T]:
        """Everybody's value, in the order of the ranks."""
        if self.alone:
            return [value]
        from torch import distributed as dist

        told: list[Any] = [None] * self.size
        with lost_neighbour():
            dist.all_gather_object(told, value)
        return told

    def same_start(self, tensors: Sequence[Tensor]) -> None:
        """Everybody's tensors become those of the main process."""
        if self.alone:
            return
        from torch import distributed as dist

        with lost_neighbour():
            for tensor in tensors:
                dist.broadcast(tensor.data, 0)


ALONE = World()


@contextmanager
def lost_neighbour() -> Iterator[None]:
    """A process that is gone, in two lines instead of a stack of sockets."""
    from torch import distributed as dist

    try:
        yield
    except (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError) as error:
        raise _lost(error) from error
    except RuntimeError as error:  # gloo reports a closed connection as a plain RuntimeError
        if not any(word in str(error).lower() for word in ("connection", "timed out", "peer", "gloo", "nccl")):
            raise
        raise _lost(error) from error


def _lost(error: Exception) -> ResourceError:
    return ResourceError(
        f"another process of this run is gone or does not answer: {str(error).splitlines()[0][:200]}",
        where=f"rank {os.environ.get('RANK', '?')}",
        hint="see its own error above; the same command continues from the last checkpoint",
    )


@contextmanager
def world(timeout_s: float = 1800.0) -> Iterator[World]:
    """The world that the environment describes; a world of one without RANK and WORLD_SIZE.

    Args:
        timeout_s: A process that waits longer than this for another ends with an error.

    Raises:
        ConfigError: The variables contradict each other.
        ResourceError: The processes do not find each other.
    """
    rank, size = described(os.environ)
    if size == 1:
        yield ALONE
        return
    need("torch", "train")
    from torch import distributed as dist

    _take_device()
    backend = "cpu:gloo,cuda:nccl" if _on_gpu() else "gloo"
    with lost_neighbour():
        dist.init_process_group(backend, rank=rank, world_size=size, timeout=timedelta(seconds=timeout_s))
    here = World(rank, size)
    try:
        yield here
        if here.is_main:
            _store().set(END, b"0")
    except BaseException as error:
        if here.is_main:
            _store().set(END, str(getattr(error, "exit_code", 1)).encode())
        raise
    finally:
        dist.destroy_process_group()


def described(variables: Mapping[str, str]) -> tuple[int, int]:
    """Rank and size as the launcher's variables say.

    Raises:
        ConfigError: A rank without a size, or outside of it.
    """
    if "WORLD_SIZE" not in variables:
        return 0, 1
    try:
        rank, size = int(variables["RANK"]), int(variables["WORLD_SIZE"])
    except (KeyError, ValueError):
        rank, size = -1, 0
    if not 0 <= rank < size:
        raise ConfigError(
            f"RANK={variables.get('RANK')} and WORLD_SIZE={variables['WORLD_SIZE']} do not describe a process",
            where="environment",
            hint="start it with torchrun or accelerate launch, or unset them",
        )
    return rank, size


def rank_here() -> int:
    """This process's rank by the environment, before any world is made."""
    return described(os.environ)[0]


def hand_out(here: World, job: Mapping[str, Any]) -> None:
    """Main process: give everybody who waits in ``follow`` this job."""
    if not here.alone and here.is_main:
        number = _store().add(f"{JOB}/count", 1)
        _store().set(f"{JOB}/{number}", pickle.dumps(dict(job)))


def jobs(here: World) -> Iterator[dict[str, Any]]:
    """Every other process: jobs as they are handed out, until the main process ends.

    There is no limit on the wait: the main process may read data or evaluate for hours. When it dies the launcher ends
    this process, or its store is gone, which is an error here.

    Raises:
        ResourceError: The main process is gone, or ended with an error.
    """
    number = 1
    while True:
        with lost_neighbour():
            if _store().check([f"{JOB}/{number}"]):
                yield pickle.loads(_store().get(f"{JOB}/{number}"))  # noqa: S301 - from our own main process
                number += 1
            elif _store().check([END]):
                if code := int(_store().get(END)):
                    raise SystemExit(code)  # the main process says why
                return
        time.sleep(POLL_S)


def _store() -> Any:
    from torch import distributed as dist

    return dist.distributed_c10d._get_default_store()


def _on_gpu() -> bool:
    import torch

    return torch.cuda.is_available() and torch.distributed.is_nccl_available()


def _take_device() -> None:
    """One GPU a process."""
    import torch

    if not _on_gpu():
        return
    local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= there:
        raise ConfigError(
            f"this is local process {local}, and there are {there} GPUs",
            where="environment",
            hint=f"start {there} processes a machine: torchrun --nproc-per-node {there} ...",
        )
    torch.cuda.set_device(local)
