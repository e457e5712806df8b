"""One run on several processes.

world.py    who am I, how many are we; what the processes tell each other
shares.py   who computes which rows of a step
gather.py   between whole tensors and parts
place.py    replicas of the whole model (DDP), and the choice of a strategy
fsdp.py     parts of every layer (FSDP2)
zero.py     DeepSpeed ZeRO
start.py    torchrun whose exit code says whether to resume
launch.py   sbatch file, Kubernetes manifests
"""
