"""Runs ``tuneloop train`` many times, killed at a given moment: a process that has imported everything forks for each run.

Reads one JSON object a line, the arguments of ``run``, and answers with a number.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def child(words: list[str]) -> None:
    from tuneloop.cli import main

    quiet = os.open(os.devnull, os.O_WRONLY)
    errors = os.open("nursery.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(quiet, 1)
    os.dup2(errors, 2)
    sys.argv = ["tuneloop", *words]
    os.chdir(Path(words[1]).parent)
    try:
        main()
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))
    os._exit(0)


def run(words: list[str], metrics: str, at_step: int | None, then_s: float) -> int:
    """Exit status, negative for a signal. The run is killed ``then_s`` after step ``at_step`` stands in its log."""
    pid = os.fork()
    if not pid:
        child(words)
    if at_step is not None:
        while _steps(Path(metrics)) < at_step and _alive(pid):
            time.sleep(0.0005)
        time.sleep(then_s)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def _alive(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _steps(metrics: Path) -> int:
    lines = metrics.read_bytes().split(b"\n")[:-1] if metrics.exists() else []
    return max((json.loads(line)["step"] for line in lines), default=-1)


def serve() -> None:
    import peft  # noqa: F401
    import polars  # noqa: F401
    import transformers.models.auto.modeling_auto  # noqa: F401

    import tuneloop.data.pipeline
    import tuneloop.loop.stages
    import tuneloop.train.phases  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        print(run(**asked), flush=True)


if __name__ == "__main__":
    serve()
