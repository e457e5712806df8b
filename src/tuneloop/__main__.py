"""``python -m tuneloop``."""

from __future__ import annotations

from tuneloop.cli import main

if __name__ == "__main__":
    main()
