"""``torchrun`` whose exit code says whether to resume: ``python -m tuneloop.train.parallel.start [torchrun's options] -m tuneloop ...``.

torchrun ends with 1 whatever its processes ended with. A job that is stopped before its time limit must end with 75 (see
``tuneloop.errors``), or Slurm and Kubernetes cannot tell "start me again" from "this will fail again".
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from tuneloop.errors import Interrupted, need

RESUME = Interrupted.exit_code


def exit_code(codes: Iterable[int]) -> int:
    """The code of a group of processes.

    Args:
        codes: Theirs, as torchrun saw them; negative where a signal ended one.

    Returns:
        75 when a process asked to be resumed and no other failed by itself (torchrun ends the rest with SIGTERM), else
        the first code of one that failed, else 1.
    """
    own = [code for code in codes if code > 0]
    failed = [code for code in own if code != RESUME]
    return failed[0] if failed else (RESUME if own else 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run torchrun; returns the exit code."""
    need("torch", "train")
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        torchrun: Any = run
        torchrun.run(torchrun.parse_args(list(sys.argv[1:] if arguments is None else arguments)))
    except ChildFailedError as error:
        return exit_code(failure.exitcode for failure in error.failures.values())
    except SignalException:  # the processes got the signal too, wrote a checkpoint and ended
        return RESUME
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
