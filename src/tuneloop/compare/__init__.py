"""Scores -> verdict: two models judged on the same items.

    comparison = run(CompareConfig(), base_scores, tuned_scores, out)                              better?
    comparison = run(CompareConfig(), tuned_scores, small_scores, out, question="not worse")       as good?

Binary scores: exact McNemar and Tango's interval. Other scores: sign-flip permutation test and paired bootstrap.
A gate answers *pass*, *fail* or *undecided*; it never takes missing evidence for a pass.
"""

from __future__ import annotations

from tuneloop.compare.config import CompareConfig, Question
from tuneloop.compare.paired import Paired, paired
from tuneloop.compare.stage import Comparison, load, run
from tuneloop.compare.verdict import judge

__all__ = ["CompareConfig", "Comparison", "Paired", "Question", "judge", "load", "paired", "run"]
