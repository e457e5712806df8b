"""The command line: one command a room, plus run, trace, doctor, runs, keys."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Entry point of the ``tuneloop`` command."""
    from tuneloop.cli.app import main as run

    run()
