"""``tuneloop deploy monitoring``: files on stdout, what to do next on stderr."""

from __future__ import annotations

from pathlib import Path

import yaml
from typer.testing import CliRunner

from tuneloop.cli.app import app


def test_it_lists_what_it_wrote_and_says_what_to_do_next(tmp_path: Path) -> None:
    out = tmp_path / "m"
    done = CliRunner().invoke(
        app, ["deploy", "monitoring", "--out", str(out), "--target", "a:1", "--target", "b:2", "--https"]
    )
    assert done.exit_code == 0, done.output
    assert all(Path(line).is_file() for line in done.stdout.splitlines())
    assert len(done.stdout.splitlines()) == len([p for p in out.rglob("*") if p.is_file()])
    assert str(out / "README.md") in done.stderr
    job = yaml.safe_load((out / "prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    assert (job["scheme"], job["static_configs"][0]["targets"]) == ("https", ["a:1", "b:2"])
