"""``tuneloop deploy``: files for those who run the service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tuneloop.progress import log

app = typer.Typer(help="Write what a deployment needs: monitoring.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    pass


@app.command(epilog="Example: tuneloop deploy monitoring --target 10.0.0.5:8000 --out monitoring")
def monitoring(
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("monitoring"),
    target: Annotated[list[str] | None, typer.Option(help="host:port of a gateway; may be repeated.")] = None,
    https: Annotated[bool, typer.Option("--https", help="The gateways speak TLS.")] = False,
    scrape_interval_s: Annotated[int, typer.Option(min=1, max=60, help="Seconds between scrapes.")] = 15,
    first_token_slo_s: Annotated[
        float, typer.Option(help="Objective: 99 % of first tokens within so many seconds.")
    ] = 2.5,
) -> None:
    """Write Prometheus' configuration, rules and alerts, and a Grafana dashboard with its provisioning."""
    from tuneloop import deploy
    from tuneloop.config import build

    values: dict[str, object] = {
        "scheme": "https" if https else "http",
        "scrape_interval_s": scrape_interval_s,
        "first_token_slo_s": first_token_slo_s,
    }
    if target:
        values["targets"] = target
    for path in deploy.monitoring(build(deploy.MonitoringConfig, values).value, out):
        print(path)
    log(f"what to do next: {out / 'README.md'}")
