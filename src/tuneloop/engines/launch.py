"""``python -m tuneloop.engines.launch PARENT COMMAND ...``: run a command that must not outlive its starter.

It leads a process group of its own (its starter makes it a session leader). SIGINT asks the whole group to end and
kills it after ``PATIENCE_S``; when the parent dies the kernel sends SIGTERM, and the group is killed at once. When the
command ends, so does all that it has started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from types import FrameType

from tuneloop.engines.platform import die_with_parent
from tuneloop.openmp import foreign_environment

PATIENCE_S = 3.0
NOT_FOUND = 127  # as in a shell


def main(parent_pid: int, command: list[str]) -> int:
    """Run the command; returns its exit code, as a shell gives it."""

    def kill(*_: object) -> None:
        os.killpg(0, signal.SIGKILL)

    def end(_: int, __: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)
        timer = threading.Timer(PATIENCE_S, kill)
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, kill)
    signal.signal(signal.SIGINT, end)
    die_with_parent(parent_pid, signal.SIGTERM)
    try:
        process = subprocess.Popen(command, env=foreign_environment())
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return NOT_FOUND
    code = process.wait()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)  # workers that it has left behind
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
