"""Training: examples -> batches -> loss -> checkpoints -> bundle.

config.py      what can be set (sections.py: its parts)
plan.py        which rows make which step
batch.py       rows -> one flat row, shared beginnings once
objectives/    (model, rows) -> loss: the fast forms and the plain oracle
methods/       model -> which parameters train
optimise.py    AdamW, its groups and its schedule
kernels.py     faster forms of layers (allocator.py: of memory; checkpointing.py: layers that recompute)
loop.py        steps, validation, checkpoints, signals
companions.py  what accompanies the loop: moving average, patience, choice of layers
trackers.py    where metrics go
checkpoint.py  atomic, hashed, bit-exact resume
phases.py      one stage after another
stage.py       records -> bundle
"""

from tuneloop.train.config import TrainConfig
from tuneloop.train.sections import LoraConfig
from tuneloop.train.stage import TrainResult, load, run, tokenise

__all__ = ["LoraConfig", "TrainConfig", "TrainResult", "load", "run", "tokenise"]
