"""Training: examples -> batches -> loss -> checkpoints -> bundle.

config.py      what can be set (sections.py: its parts)
plan.py        which rows make which step
batch.py       rows -> one flat row, shared beginnings once
objectives/    (model, rows) -> loss: the fast forms and the plain oracle
methods/       model -> which parameters train
optimise.py    AdamW, its groups and its schedule
loop.py        steps, validation, checkpoints, signals
companions.py  what accompanies the loop: moving average, patience, choice of layers
trackers.py    where metrics go
checkpoint.py  atomic, hashed, bit-exact resume
phases.py      one stage after another
parallel/      several processes: replicas, FSDP2, DeepSpeed; what starts them on a cluster
stage.py       records -> bundle
"""

from tuneloop.train.config import TrainConfig
from tuneloop.train.parallel.launch import Cluster
from tuneloop.train.parallel.launch import kubernetes as kubernetes_manifests
from tuneloop.train.parallel.launch import slurm as slurm_script
from tuneloop.train.parallel.world import World, rank_here, world
from tuneloop.train.sections import LoraConfig
from tuneloop.train.stage import TrainResult, follow, load, run, tokenise

__all__ = [
    "Cluster",
    "LoraConfig",
    "TrainConfig",
    "TrainResult",
    "World",
    "follow",
    "kubernetes_manifests",
    "load",
    "rank_here",
    "run",
    "slurm_script",
    "tokenise",
    "world",
]
