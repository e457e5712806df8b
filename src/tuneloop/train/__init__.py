"""Training: examples -> batches -> loss -> checkpoints -> bundle.

config.py      what can be set (sections.py: its parts)
rows.py        records -> examples (texts.py: token runs of documents; weighing.py: what a row weighs)
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
parallel/      several processes: replicas, FSDP2, DeepSpeed; what starts them on a cluster
stage.py       records -> bundle
preflight.py   will it fit: before anything is loaded
gauge.py       utilisation, memory, time that is left
watch.py       warnings with advice
oom.py         smaller passes when memory runs out
samples.py     answers of the model in training
rehearse.py    two steps and all that follows
finder.py      a sweep of the learning rate
"""

from tuneloop.train.config import TrainConfig
from tuneloop.train.finder import Sweep, find_learning_rate, plot
from tuneloop.train.parallel.launch import Cluster
from tuneloop.train.parallel.launch import kubernetes as kubernetes_manifests
from tuneloop.train.parallel.launch import slurm as slurm_script
from tuneloop.train.parallel.world import World, rank_here, world
from tuneloop.train.rehearse import Rehearsal, rehearse
from tuneloop.train.rows import Rows, tokenise
from tuneloop.train.sections import LoraConfig
from tuneloop.train.stage import TrainResult, follow, load, run

__all__ = [
    "Cluster",
    "LoraConfig",
    "Rehearsal",
    "Rows",
    "Sweep",
    "TrainConfig",
    "TrainResult",
    "World",
    "find_learning_rate",
    "follow",
    "kubernetes_manifests",
    "load",
    "plot",
    "rank_here",
    "rehearse",
    "run",
    "slurm_script",
    "tokenise",
    "world",
]
