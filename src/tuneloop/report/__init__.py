"""What a run shows: one self-contained page for the person who signs, and a dozen lines for the terminal.

    write(run, "bank-support")    -> runs/bank-support/report.html
    summary(run)                  -> the lines printed at the end

Both read only what the stages left on disk and say which stages were not run.
"""

from __future__ import annotations

from pathlib import Path

from tuneloop.report.gather import gather
from tuneloop.report.summary import summary_lines
from tuneloop.rundir import Run

__all__ = ["summary", "write"]

FILE = "report.html"


def write(run: Run, name: str) -> Path:
    """Write ``report.html`` into the run's folder.

    Raises:
        MissingExtraError: matplotlib is not installed.
        DataError: A file of a finished stage is broken.
    """
    from tuneloop.report.document import render
    from tuneloop.rundir import write_atomic

    path = run.root / FILE
    write_atomic(path, render(gather(run), name))
    return path


def summary(run: Run) -> list[str]:
    """The end summary, a line each."""
    return summary_lines(gather(run), run.root)
