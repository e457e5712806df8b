"""What importing the package does to the process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "PASSIVE 1000"),
        ({"GOMP_SPINCOUNT": "7"}, "PASSIVE 7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"),
    ],
)
def test_threads_wait_briefly_awake_unless_the_user_says_how(given: dict[str, str], expected: str) -> None:
    assert seen(given, f"print(*map(os.environ.get, {NAMES}))") == expected


@pytest.mark.parametrize(
    ("given", "engine", "other"),
    [
        ({}, "PASSIVE 300000", "None None"),
        ({"GOMP_SPINCOUNT": "7"}, "PASSIVE 7", "PASSIVE 7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None", "ACTIVE None"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "PASSIVE None", "PASSIVE None"),
    ],
)
def test_engines_wait_as_their_users_know_it(given: dict[str, str], engine: str, other: str) -> None:
    ask = "from tuneloop.openmp import {0}; print(*map({0}().get, {1}))"
    assert seen(given, ask.format("engine_environment", NAMES)) == engine
    assert seen(given, ask.format("foreign_environment", NAMES)) == other
    assert (
        seen({"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "300000"}, ask.format("foreign_environment", NAMES))
        == "None None"
    )


def seen(given: dict[str, str], code: str) -> str:
    env = {k: v for k, v in os.environ.items() if k not in NAMES} | given
    command = [sys.executable, "-c", f"import os, tuneloop; {code}"]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip()
