"""Training: examples -> batches -> loss -> checkpoints -> bundle.

config.py      what can be set
plan.py        which rows make which step
batch.py       rows -> one flat row, shared beginnings once
objectives.py  (model, rows) -> loss: the fast form and the plain oracle
methods.py     model -> which parameters train
loop.py        steps, validation, checkpoints, signals
checkpoint.py  atomic, hashed, bit-exact resume
stage.py       records -> bundle
"""

from tuneloop.train.config import LoraConfig, TrainConfig
from tuneloop.train.stage import TrainResult, load, run, tokenise

__all__ = ["LoraConfig", "TrainConfig", "TrainResult", "load", "run", "tokenise"]
