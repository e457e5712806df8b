"""How much of its wording a text shares with another one."""

from __future__ import annotations

from collections import Counter

_LONGEST = 6
_BETA_SQUARED = 4.0


def chrf(hypothesis: str, reference: str) -> float:
    """chrF2 in [0, 1]: F-score of character n-grams, 1 to 6, recall counting twice, spaces left out.

    Source: Popović, "chrF: character n-gram F-score for automatic MT evaluation", WMT 2015; as in sacrebleu, an order of
    which one side has no n-grams is left out of the mean.
    """
    said, meant = ("".join(text.split()) for text in (hypothesis, reference))
    precision = recall = 0.0
    orders = 0
    for n in range(1, _LONGEST + 1):
        a, b = _ngrams(said, n), _ngrams(meant, n)
        if not a or not b:
            continue
        shared = (a & b).total()
        precision += shared / a.total()
        recall += shared / b.total()
        orders += 1
    if not precision:
        return 0.0
    precision, recall = precision / orders, recall / orders
    return (1 + _BETA_SQUARED) * precision * recall / (_BETA_SQUARED * precision + recall)


def _ngrams(text: str, n: int) -> Counter[str]:
    return Counter(text[i : i + n] for i in range(len(text) - n + 1))
