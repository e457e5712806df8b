"""``tuneloop keys``: the API keys of the gateway."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from tuneloop.cli.options import Json, print_json
from tuneloop.progress import log

app = typer.Typer(help="API keys of the gateway.", no_args_is_help=True)

KeyId = Annotated[str, typer.Argument(help="Its id, as listed.")]
PerMinute = Annotated[
    int | None, typer.Option(min=0, help="0: no limit. Default: what the gateway's configuration says.")
]


@app.command(epilog="Example: tuneloop keys create support-desk --expires-days 90 --tokens-per-day 2000000")
def create(
    name: Annotated[str, typer.Argument(help="Who or what the key is for.")],
    scope: Annotated[list[str] | None, typer.Option(help="chat, batch, metrics or admin; may be repeated.")] = None,
    expires_days: Annotated[float | None, typer.Option(help="The key ends after so many days.")] = None,
    requests_per_minute: PerMinute = None,
    tokens_per_minute: PerMinute = None,
    tokens_per_day: PerMinute = None,
) -> None:
    """Make a key. It is printed once and kept only as a hash."""
    from tuneloop.serve import keys

    key, secret = keys.create(
        name,
        scopes=tuple(scope or ("chat",)),
        expires_days=expires_days,
        limits=keys.KeyLimits(requests_per_minute, tokens_per_minute, tokens_per_day),
    )
    log(f"key {key.id} for {key.name} ({', '.join(key.scopes)}); this is the only time it is shown:")
    print(secret)


@app.command("list", epilog="Example: tuneloop keys list")
def list_(as_json: Json = False) -> None:
    """List keys (never the secrets)."""
    from tuneloop.serve import keys

    found = keys.list_keys()
    if as_json:
        print_json(
            [
                {"id": k.id, "name": k.name, "scopes": k.scopes, "active": k.active, "limits": asdict(k.limits)}
                for k in found
            ]
        )
        return
    for key in found:
        said = ", ".join(f"{name}={value}" for name, value in asdict(key.limits).items() if value is not None)
        state = "active " if key.active else "ended  "
        print(f"{key.id}  {state}  {','.join(key.scopes):20}  {key.name}{f'  ({said})' if said else ''}")


@app.command(epilog="Example: tuneloop keys rotate 1a2b3c4d --grace-h 48")
def rotate(
    key_id: KeyId,
    grace_h: Annotated[
        float, typer.Option(min=0, help="The old secret stays valid for so many hours; 0 ends it now.")
    ] = 24.0,
) -> None:
    """Give a key a new secret; the old one stays valid for a while, so that clients can be changed in peace."""
    from tuneloop.serve import keys

    key, secret = keys.rotate(key_id, grace_h=grace_h)
    until = f"the old secret ends in {grace_h:g} hours" if grace_h else "the old secret has ended"
    log(f"key {key.id} for {key.name}: {until}; this is the only time the new one is shown:")
    print(secret)


@app.command(epilog="Example: tuneloop keys revoke 1a2b3c4d")
def revoke(key_id: KeyId) -> None:
    """End a key now."""
    from tuneloop.serve import keys

    print(f"revoked {keys.revoke(key_id).id}")
