"""The metrics of answers: accuracy, macro-F1, BLEU-4, ROUGE-L."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tuneloop.errors import need
from tuneloop.evaluate.answers import UNKNOWN, Labels, has_cjk
from tuneloop.evaluate.registry import Metric, Scorer, Task
from tuneloop.evaluate.text import rouge_l
from tuneloop.stats import bootstrap_sums, wilson, wilson_f1
from tuneloop.types import Interval, Record

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


def _labels(task: Task) -> Labels:
    assert task.labels is not None, "unfit() is asked first"
    return task.labels


def _needs_labels(task: Task) -> str | None:
    return task.not_labels or None


def _exact(task: Task) -> Scorer:
    labels = _labels(task)
    return lambda record, answer: float(labels.predict(answer) == record.label)


def _mentioned(task: Task) -> Scorer:
    labels = _labels(task)
    return lambda record, answer: float(labels.mentioned(answer) == record.label)


def confusion(labels: Labels, records: Sequence[Record], answers: Sequence[str]) -> dict[str, Any]:
    """Counts of (right class, class answered); the last column is for answers that are no known label."""
    index = {name: i for i, name in enumerate((*labels.names, UNKNOWN))}
    counts = [[0] * len(index) for _ in labels.names]
    for record, answer in zip(records, answers, strict=True):
        counts[index[str(record.label)]][index[labels.predict(answer)]] += 1
    return {"labels": list(labels.names), "columns": [*labels.names, UNKNOWN], "counts": counts}


def per_class(matrix: dict[str, Any]) -> dict[str, dict[str, Interval]]:
    """Precision, recall (Wilson) and F1 of each class that the split contains or the model answers."""
    out: dict[str, dict[str, Interval]] = {}
    counts = matrix["counts"]
    for i, label in enumerate(matrix["labels"]):
        hit, asked, given = counts[i][i], sum(counts[i]), sum(row[i] for row in counts)
        if asked or given:
            out[label] = {
                "precision": wilson(hit, given),
                "recall": wilson(hit, asked),
                "f1": wilson_f1(hit, given - hit, asked - hit),
            }
    return out


def macro_f1(sums_R3C: Array) -> Array:
    """Mean F1 of the classes that the (re)sample contains.

    Args:
        sums_R3C: For R samples, three counts for each of C classes: right, answered, asked.
    """
    import numpy as np

    hit, given, asked = sums_R3C[:, 0], sums_R3C[:, 1], sums_R3C[:, 2]
    f1 = 2 * hit / np.maximum(given + asked, 1)
    present = asked > 0
    mean: Array = (f1 * present).sum(1) / np.maximum(present.sum(1), 1)
    return mean


def _macro_f1(task: Task, answers: Sequence[str]) -> Interval:
    import numpy as np

    labels = _labels(task)
    index = {name: i for i, name in enumerate(labels.names)}
    rows = np.zeros((len(answers), 3, len(index)))
    for row, record, answer in zip(rows, task.records, answers, strict=True):
        right, given = str(record.label), labels.predict(answer)
        row[2, index[right]] = 1
        if given != UNKNOWN:
            row[1, index[given]] = 1
            row[0, index[given]] = given == right
    flat = rows.reshape(len(rows), 3 * len(index))
    drawn = bootstrap_sums(flat, lambda s: macro_f1(s.reshape(len(s), 3, -1)), resamples=task.resamples, seed=task.seed)
    return _edge(drawn, 1.0)


def _rouge(task: Task) -> Scorer:
    return lambda record, answer: rouge_l(record.answer, answer)


def _bleu_tokenizer(task: Task) -> str:
    chinese = sum(has_cjk(r.answer) for r in task.records)
    return "zh" if 2 * chinese > len(task.records) else "13a"


def _bleu_counts(task: Task, answers: Sequence[str]) -> Array:
    """Ten additive counts an answer: length, reference length, n-gram matches 1-4, n-grams 1-4."""
    import numpy as np

    sacrebleu: Any = need("sacrebleu.metrics", "evaluate")
    metric = sacrebleu.BLEU(tokenize=_bleu_tokenizer(task), effective_order=True)
    rows = []
    for record, answer in zip(task.records, answers, strict=True):
        one = metric.corpus_score([answer], [[record.answer]])
        rows.append([one.sys_len, one.ref_len, *one.counts, *one.totals])
    return np.array(rows, dtype=float).reshape(-1, 10)


def bleu(sums_R10: Array) -> Array:
    """Corpus BLEU-4 in points (0-100) with sacrebleu's exponential smoothing, for R samples at once.

    Source: Post, "A Call for Clarity in Reporting BLEU Scores" (2018); smoothing: Chen & Cherry (2014), method 3.
    """
    import numpy as np

    length, reference, match, total = sums_R10[:, 0], sums_R10[:, 1], sums_R10[:, 2:6], sums_R10[:, 6:10]
    misses = np.cumsum((match == 0) & (total > 0), axis=1)
    smoothed = np.where(match > 0, match, 0.5**misses)
    precision = np.where(total > 0, smoothed / np.maximum(total, 1), 0.0)
    with np.errstate(divide="ignore"):
        mean = np.exp(np.log(precision).mean(1))
    brevity = np.exp(np.minimum(0.0, 1 - reference / np.maximum(length, 1e-9)))
    score: Array = np.where((length > 0) & (match.sum(1) > 0), 100 * brevity * mean, 0.0)
    return score


def _bleu4(task: Task, answers: Sequence[str]) -> Interval:
    drawn = bootstrap_sums(_bleu_counts(task, answers), bleu, resamples=task.resamples, seed=task.seed)
    return _edge(drawn, 100.0)


def _edge(drawn: Interval, top: float) -> Interval:
    """All right or all wrong resamples to itself: then the width that Wilson gives n of n, or 0 of n, stands in."""
    if drawn.high <= 0.0:
        return replace(drawn, high=top * wilson(0, drawn.n).high, method="wilson")
    if drawn.low >= top * (1 - 1e-9):
        return replace(drawn, low=top * wilson(drawn.n, drawn.n).low, method="wilson")
    return drawn


def _no_four_grams(task: Task) -> str | None:
    if not has_four_grams(task):
        return "no reference answer is four tokens long, so there are no 4-grams to compare"
    return None


def has_four_grams(task: Task) -> bool:
    """Whether any reference has four tokens: without them BLEU-4 is 0 for every model."""
    references = Counter(r.answer for r in task.records)
    sacrebleu: Any = need("sacrebleu.metrics", "evaluate")
    metric = sacrebleu.BLEU(tokenize=_bleu_tokenizer(task), effective_order=True)
    return any(metric.corpus_score([text], [[text]]).totals[3] > 0 for text in references)


def mean(scores: Sequence[float], task: Task) -> Interval:
    """Mean of single scores: Wilson's interval where each is right or wrong, else a bootstrap over the items."""
    import numpy as np

    if all(s in (0.0, 1.0) for s in scores):
        return wilson(int(sum(scores)), len(scores))
    if not all(math.isfinite(s) for s in scores):
        raise ValueError("a scorer returned a number that is not finite")
    rows = np.stack([np.asarray(scores, dtype=float), np.ones(len(scores))], axis=1)
    return bootstrap_sums(rows, lambda s: s[:, 0] / s[:, 1], resamples=task.resamples, seed=task.seed)


BUILT_IN: dict[str, Metric] = {
    "accuracy": Metric(_exact, unfit=_needs_labels),
    "accuracy_lenient": Metric(_mentioned, unfit=_needs_labels),
    "macro_f1": Metric(None, _macro_f1, unfit=_needs_labels),
    "bleu4": Metric(None, _bleu4, unfit=_no_four_grams),
    "rouge_l": Metric(_rouge),
}
