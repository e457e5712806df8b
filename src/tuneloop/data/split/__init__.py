"""Kept rows -> train, validation, test: stratified, grouped, seeded, without leaks.

    digests     a small frame a part of the rows: hashes of prompt and groups, classes
    arrays      all digests as numpy columns
    similar     prompts that resemble each other
    leaks       rows whose prompt or group stands in a prescribed test or validation source
    sample      the stratified sample that a source asks for
    units       rows that move together: one prompt, one group, prompts that resemble each other
    deal        units -> splits, class by class
    balance     how far the classes of a split are from those of the whole

Rows are dealt out in the order of a seeded hash of their prompt or group, not of their position: adding rows to a file
moves only the few rows at the borders.
"""

from __future__ import annotations

from tuneloop.data.split.balance import Balance, balance_report
from tuneloop.data.split.decide import Decided, decide
from tuneloop.data.split.digests import SAMPLE, STEP, digest, prompt_keys
from tuneloop.data.split.sample import apportion
from tuneloop.data.split.whole import assign, divide, drop_leaks, sample, shared_prompts

__all__ = [
    "SAMPLE",
    "STEP",
    "Balance",
    "Decided",
    "apportion",
    "assign",
    "balance_report",
    "decide",
    "digest",
    "divide",
    "drop_leaks",
    "prompt_keys",
    "sample",
    "shared_prompts",
]
