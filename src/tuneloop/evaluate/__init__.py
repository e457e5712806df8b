"""Records + responses -> scores. A model answers the held-out questions; every number comes with its uncertainty.

    evaluation = run(EvaluateConfig(), Subject(bundle, "tuned"), data_folder, engine, chat, out)
    scores(out)                          one Score an item and metric: what compare pairs

On disk: ``responses.jsonl`` (written as answers arrive; a killed run goes on from it), ``scores.jsonl``,
``likelihoods.jsonl`` and ``evaluation.json``.
"""

from __future__ import annotations

from tuneloop.evaluate.artifact import Evaluation, Subject, load, scores
from tuneloop.evaluate.config import EvaluateConfig
from tuneloop.evaluate.registry import Metric, Scorer, names, register
from tuneloop.evaluate.stage import run

__all__ = ["EvaluateConfig", "Evaluation", "Metric", "Scorer", "Subject", "load", "names", "register", "run", "scores"]
