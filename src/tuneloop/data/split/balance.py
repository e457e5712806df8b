"""Whether the classes of each split are shared out as in the whole: Kullback-Leibler divergence with a limit.

D(split || whole) = sum of p ln(p / q) in nats, p and q the class shares of the split and of all rows. The usual limit of
0.1 cannot be met where classes are rare, whatever one does: 12 rows cannot show 77 classes. Such a miss is *undecided*
(undecidable: no split of this size could say more), not a failure. Two bounds say when:

- what is attainable: the divergence of a perfectly stratified split, whole rows by largest remainder;
- what chance makes: for a random draw of n of N rows 2nD is about chi-squared with k - 1 degrees of freedom (Wilks,
  Ann. Math. Stat. 9, 1938), so D is (k - 1) / 2n on average, times (N - n) / (N - 1) for drawing without replacement
  (Cochran, Sampling Techniques, 1977, section 2.6). A miss smaller than that is no sign of a skewed split.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tuneloop.data.split.sample import apportion
from tuneloop.types import Decision

Classes = Mapping[str, Mapping[str, Mapping[str, int]]]
"""Stratified field -> split -> value -> rows."""
LIMIT_NATS = 0.1
_NAMED = 8


@dataclass(frozen=True, slots=True)
class Balance:
    """One field of one split against all rows.

    Attributes:
        field: What is stratified, e.g. ``label``.
        split: train, validation or test.
        decision: pass: within the limit. fail: a fair split would be within it. undecided: too few rows to tell.
        kl_nats: Divergence of the split from the whole.
        attainable_nats: That of a perfectly stratified split of this size.
        chance_nats: That of a random split of this size, on average.
        rows: Rows of the split.
        rare: Classes whose fair share of this split is less than one row, the rarest first.
        reason: The judgement in words, with what can be done.
    """

    field: str
    split: str
    decision: Decision
    kl_nats: float
    attainable_nats: float
    chance_nats: float
    rows: int
    rare: tuple[str, ...]
    reason: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def balance_report(classes: Classes, limit_nats: float = LIMIT_NATS) -> list[Balance]:
    """Judge every split that has rows by every field that has at least two values.

    Args:
        classes: Rows of each value, by field and split; '' stands for rows without a value.
        limit_nats: The most that a split may diverge.
    """
    out = []
    for field, splits in classes.items():
        whole = Counter[str]()
        for counts in splits.values():
            whole.update(counts)
        if len(whole) > 1:
            out += [_judge(field, name, counts, whole, limit_nats) for name, counts in splits.items() if counts]
    return out


def kl(counts: Mapping[str, int], whole: Mapping[str, int]) -> float:
    """D(counts || whole) in nats; every class of ``counts`` is in ``whole``."""
    n, total = sum(counts.values()), sum(whole.values())
    return max(0.0, math.fsum(c / n * math.log(c / n * total / whole[name]) for name, c in counts.items() if c))


def _judge(field: str, split: str, counts: Mapping[str, int], whole: Mapping[str, int], limit: float) -> Balance:
    n, total, k = sum(counts.values()), sum(whole.values()), len(whole)
    here, best = kl(counts, whole), kl(apportion(whole, n), whole)
    chance = (k - 1) / (2 * n) * (total - n) / (total - 1)
    rare = [name for name, rows in sorted(whole.items(), key=lambda item: (item[1], item[0])) if rows * n < total]
    fewest = math.ceil(total / n)
    decision: Decision
    if here <= limit:
        decision, reason = "pass", f"{here:.3f} nats from the whole, at most {limit:g} is wanted"
    elif best > limit:
        why = f"not even a perfectly stratified split of {n:,} rows over {k:,} values gets below {best:.3f}"
        decision, reason = "undecided", f"undecidable: {here:.3f} nats, but {why}"
    elif chance > limit:
        why = f"a random split of {n:,} rows over {k:,} values is {chance:.3f} away on average"
        decision, reason = "undecided", f"undecidable: {here:.3f} nats, but {why}"
    else:
        why = f"a perfectly stratified split of {n:,} rows gets to {best:.3f}"
        decision, reason = "fail", f"{here:.3f} nats from the whole, more than {limit:g}; {why}"
    if decision != "pass":
        reason += _remedy(field, rare, fewest)
    return Balance(field, split, decision, here, best, chance, n, tuple(rare), reason)


def _remedy(field: str, rare: Sequence[str], fewest: int) -> str:
    if not rare:
        return ". Look for groups or prescribed sources that hold one class"
    shown = ", ".join(repr(name or "(none)") for name in rare[:_NAMED])
    more = f" and {len(rare) - _NAMED:,} more" if len(rare) > _NAMED else ""
    merge = f"step merge_rare_classes with min_rows: {fewest}" if field == "label" else "wider values"
    return f". Too rare for this split (fewer than {fewest} rows): {shown}{more}. Add rows, or merge them: {merge}"
