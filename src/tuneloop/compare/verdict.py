"""The gate: pass, fail or undecided."""

from __future__ import annotations

from statistics import NormalDist

from tuneloop.compare.config import CompareConfig, Question
from tuneloop.compare.paired import Paired
from tuneloop.stats import tango_z
from tuneloop.types import Decision, Verdict


def judge(found: Paired, question: Question, config: CompareConfig, *, p_adjusted: float | None = None) -> Verdict:
    """Decide.

    *better* passes when the whole interval of the difference lies above ``min_difference`` and the (adjusted) p-value
    is below alpha; *not worse* passes when the whole interval lies above minus the margin. Each fails when the whole
    interval lies below that bound, and is undecided in between or with fewer than ``min_n`` items.

    Args:
        found: The paired statistics.
        question: What is asked.
        config: Bounds and error rate.
        p_adjusted: The p-value after Holm, where several metrics are looked at.
    """
    bound = config.min_difference if question == "better" else -config.non_inferiority_margin
    d = found.difference
    p = (found.p_value if p_adjusted is None else p_adjusted) if question == "better" else _p_not_worse(found, bound)
    decision: Decision

    def say(value: float) -> str:
        if value == 0:
            return "0"
        return (f"{100 * value:+.1f}" if found.binary else f"{value:+.4f}").replace("-", "−")

    unit = " points" if found.binary else ""
    interval, limit = f"the whole interval [{say(d.low)}, {say(d.high)}]{unit}", f"{say(bound)}{unit * (bound != 0)}"
    if found.n < config.min_n:
        decision, reason = "undecided", f"{found.n} items are fewer than the {config.min_n} the gate asks for"
    elif d.low > bound and (question == "not worse" or (p is not None and p < config.alpha)):
        decision, reason = "pass", f"{interval} lies above {limit}"
    elif d.high <= bound:
        decision, reason = "fail", f"{interval} lies at or below {limit}"
    elif d.low > bound:
        decision, reason = "undecided", f"the test does not confirm the interval (p = {p:.3g})"
    else:
        decision, reason = (
            "undecided",
            f"{interval.replace('whole ', '')} holds {limit}; more items would narrow it",
        )
    margin = config.min_difference if question == "better" else config.non_inferiority_margin
    detail = {"question": question, "alpha": config.alpha, "min_n": config.min_n}
    return Verdict(decision, found.metric, d, reason, p, margin, detail)


def _p_not_worse(found: Paired, bound: float) -> float | None:
    """One-sided p-value of "the candidate is worse by the margin or more" (Tango 1998); None for other scores."""
    if not found.binary:
        return None
    return 1 - NormalDist().cdf(tango_z(found.wins, found.losses, found.n, bound))
