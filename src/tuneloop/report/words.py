"""Numbers as people read them. Every estimate comes with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Facts = Mapping[str, Any]

NAMES = {
    "accuracy": "Accuracy",
    "accuracy_lenient": "Accuracy, any wording",
    "macro_f1": "Macro-F1",
    "bleu4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "perplexity": "Perplexity of the references",
    "latency_p50_s": "Latency, median, one at a time",
    "first_token_p50_s": "First token, median, one at a time",
    "tokens_per_s": "Tokens a second",
}
SHARES = {"accuracy", "accuracy_lenient", "macro_f1", "rouge_l"}
WHO = {"base": "base model", "tuned": "tuned model", "compressed": "compressed model"}
GAIN = {"pass": "passed", "fail": "failed", "undecided": "is undecided"}


def who(label: str) -> str:
    return WHO.get(label, label)


def name(metric: str) -> str:
    return NAMES.get(metric, metric)


def percent(value: float | None) -> str:
    return "not known" if value is None else f"{100 * value:.1f} %"


def points(value: float) -> str:
    """A difference of shares, signed: ``+12.3``. The minus is a real one."""
    return f"{100 * value:+.1f}".replace("-", "−").replace("−0.0", "0.0").replace("+0.0", "0.0")


def p_value(p: float | None) -> str:
    if p is None:
        return "p not computed"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def seconds(value: float) -> str:
    if value < 1:
        return f"{1000 * value:.1f} ms" if value < 0.01 else f"{1000 * value:.0f} ms"
    return f"{value:.2f} s" if value < 60 else f"{value / 60:.1f} min"


def size(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:,.0f} MB" if n_bytes < 1e9 else f"{n_bytes / 1e9:.2f} GB"


def value(metric: str, number: float | None) -> str:
    """One number of a metric in its unit."""
    if number is None:
        return "not known"
    if metric in SHARES:
        return percent(number)
    if metric.endswith("_s") and metric != "tokens_per_s":
        return seconds(number)
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"


def estimate(metric: str, interval: Facts) -> str:
    """``91.4 % [86.5, 94.6]``."""
    return f"{value(metric, interval['value'])} {bounds(metric, interval)}"


def bounds(metric: str, interval: Facts) -> str:
    """``[86.5, 94.6]``."""
    low, high = (value(metric, interval[k]) for k in ("low", "high"))
    if metric in SHARES:
        low, high = low.removesuffix(" %"), high.removesuffix(" %")
    return f"[{low}, {high}]"


def difference(interval: Facts, metric: str) -> str:
    """``+82.1 points [78.3, 85.5]``."""
    if metric not in SHARES:
        return f"{interval['value']:+.3g} [{interval['low']:+.3g}, {interval['high']:+.3g}]"
    return f"{points(interval['value'])} points [{points(interval['low'])}, {points(interval['high'])}]"


def right(interval: Facts) -> str:
    """``430 of 462``, for a share of items."""
    n = interval["n"]
    return f"{round((interval['value'] or 0.0) * n):,} of {n:,}"


def margin(comparison: Facts) -> str:
    """The gate's bound: ``3 points``."""
    verdict = comparison["verdict"]
    return f"{100 * verdict['margin']:g} points" if verdict["metric"] in SHARES else f"{verdict['margin']:g}"


def gate(comparison: Facts) -> str:
    """What the gate asked, in words."""
    if comparison["question"] == "not worse":
        return f"not worse by {margin(comparison)} or more"
    return f"better by more than {margin(comparison)}" if comparison["verdict"]["margin"] else "better than before"
