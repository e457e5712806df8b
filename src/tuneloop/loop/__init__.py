"""The loop as one call: raw file -> records -> model -> scores -> smaller model -> service -> verdict -> report.

    result = run("examples/bank-support/tuneloop.yaml", "train.epochs=1")
    result.verdict, result.report, result.summary

config.py   a whole project: one YAML file, one section a room
stages.py   which stages there are, what each depends on, how each is done
trial.py    rehearsing a training, sweeping its learning rate
guard.py    signals, a full disk or memory, memory between stages
"""

from __future__ import annotations

from tuneloop.loop.config import ProjectConfig, load_project
from tuneloop.loop.stages import STAGES, Loop, LoopResult, run
from tuneloop.loop.trial import find_learning_rate, rehearse

__all__ = ["STAGES", "Loop", "LoopResult", "ProjectConfig", "find_learning_rate", "load_project", "rehearse", "run"]
