"""``tuneloop audit``: whether an audit log is whole."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tuneloop.cli.options import Json, print_json
from tuneloop.errors import DataError


def audit(
    files: Annotated[list[Path], typer.Argument(help="The audit log; rotated ones oldest first.")],
    last_hash: Annotated[
        str | None, typer.Option(help="The last hash, from the gateway's log: shows also that the end was cut off.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that no line of an audit log was changed, moved or taken out."""
    from tuneloop import serve

    found = serve.verify_audit(files)
    if last_hash is not None and found.last_hash != last_hash:
        raise DataError(
            f"the log ends with the hash {found.last_hash[:12]}…, not with {last_hash[:12]}…",
            where=str(files[-1]),
            hint="lines are missing at its end, or more came after that hash was written down",
        )
    if as_json:
        print_json(asdict(found))
        return
    print(f"{found.lines} lines, unbroken; last hash {found.last_hash}")
    if not found.complete:
        print(f"it begins after a line with the hash {found.first_prev}: give the older files too")
