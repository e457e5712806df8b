"""A real PostgreSQL server for the tests that need one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

PASSWORD = "p@ss:w/rd%"  # every character that has a meaning in a URL


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of an empty server of its own, with the password left out: ``postgresql://postgres:...@127.0.0.1:PORT/postgres``."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = found[-1] if found else shutil.which("initdb")
    if not initdb:
        pytest.skip("PostgreSQL's server is not installed (apt-get install postgresql)")
    if os.geteuid() == 0 and not shutil.which("runuser"):
        pytest.skip("PostgreSQL does not run as root, and there is no runuser")
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        place = Path(folder)
        (place / "password").write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (place, place / "password"):
                shutil.chown(path, "postgres", "postgres")
        binaries, port = Path(initdb).parent, _free_port()
        _run([initdb, "-D", place / "data", "-U", "postgres", "-A", "scram-sha-256", "--pwfile", place / "password"])
        options = f"-k {place} -p {port} -c listen_addresses=127.0.0.1 -c fsync=off"
        control = [binaries / "pg_ctl", "-D", place / "data", "-l", place / "log", "-w"]
        _run([*control, "-o", options, "start"])
        try:
            _wait(port)
            yield f"postgresql://postgres:${{TEST_PG_PASSWORD}}@127.0.0.1:{port}/postgres"
        finally:
            _run([*control, "-m", "immediate", "stop"])


def _run(command: Sequence[object]) -> None:
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    subprocess.run(
        [*as_user, *map(str, command)], check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, cwd="/"
    )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait(port: int) -> None:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError("PostgreSQL did not begin to listen")
