"""Runs ``tuneloop train`` many times, killed at a given moment: a process that has imported everything forks for each run.

Reads one JSON object a line: ``{"words": [...], "after_s": 0.4 or null}``; answers one: ``{"status": exit status or
-signal, "seconds": ...}``. The clock starts when the child begins to work.
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


def run(words: list[str], after_s: float | None) -> dict[str, float]:
    begun = time.monotonic()
    pid = os.fork()
    if not pid:
        child(words)
    if after_s is not None:
        while (
            time.monotonic() - begun < after_s
            and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        ):
            time.sleep(0.0005)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return {"status": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - begun}


def serve() -> None:
    import torch  # noqa: F401
    import transformers  # noqa: F401

    import tuneloop.train.loop
    import tuneloop.train.phases  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(run(asked["words"], asked["after_s"])), flush=True)


if __name__ == "__main__":
    serve()
