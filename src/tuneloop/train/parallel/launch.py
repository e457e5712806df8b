"""Files that start a training on a cluster: an sbatch script, Kubernetes manifests.

Both start ``start.py`` (torchrun that keeps the exit code) once a machine, and both start the run again where it ended with
75: stopped before a time limit or for maintenance, with a checkpoint.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from tuneloop.errors import ConfigError, GateFailed, Interrupted, MissingExtraError, ModelError

START = "tuneloop.train.parallel.start"
PORT = 29400
RESUME = Interrupted.exit_code
HOPELESS = sorted(e.exit_code for e in (ConfigError, ModelError, MissingExtraError, GateFailed))
"""Exit codes that another attempt would end with again."""

RETRIES = 6
"""Failures that are tried again (a lost machine, a full disk); being stopped does not count."""

SLURM = """\
#!/bin/bash
# Written by tuneloop launch slurm. Every machine starts {processes} processes; all of them read and write this folder.
#SBATCH --job-name={job}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
{resources}#SBATCH --time={time}
#SBATCH --signal=B:USR1@{warning_s}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={job}-%j.log
set -uo pipefail
cd "$SLURM_SUBMIT_DIR" || exit 1

head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-{threads}}}"

# {warning_s} seconds before the time limit: all processes stop after the same step and write a checkpoint.
stopping=0
trap 'stopping=1; scancel --signal=TERM "$SLURM_JOB_ID.0"' USR1

# --wait: machines end within seconds of each other; the first to end must not have the others killed.
srun --kill-on-bad-exit=0 --wait={wait_s} {python} -m {start} \\
  --nnodes={nodes} --nproc-per-node={processes} --shutdown-timeout={wait_s} \\
  --rdzv-backend=c10d --rdzv-endpoint="$head_node:$((20000 + SLURM_JOB_ID % 20000))" \\
  --rdzv-id="$SLURM_JOB_ID-${{SLURM_RESTART_COUNT:-0}}" \\
  -m tuneloop {command} &
step=$!
wait "$step"
code=$?
if [ "$stopping" -eq 1 ]; then # the signal ended the wait, not the step
  wait "$step"
  code=$?
fi
if [ "$code" -eq {resume} ]; then
  echo "stopped with a checkpoint; the job is queued again"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a job asks for. ``warning_s`` is how long before a time limit, or after a node's notice, it has for its checkpoint."""

    name: str
    nodes: int = 1
    gpus: int = 8
    cpus: int | None = None
    memory: str | None = None
    warning_s: int = 300
    python: str = "python"

    @property
    def processes(self) -> int:
        """On each machine: one a GPU."""
        return max(1, self.gpus)

    @property
    def job(self) -> str:
        """The name as clusters allow it: lower case, digits and '-' (RFC 1123), short enough for what is appended."""
        return ("tuneloop-" + re.sub(r"[^a-z0-9]+", "-", self.name.lower()))[:45].strip("-")

    @property
    def wait_s(self) -> int:
        return max(30, self.warning_s - 60)


def slurm(
    cluster: Cluster,
    command: Sequence[str],
    *,
    time: str = "24:00:00",
    partition: str | None = None,
    account: str | None = None,
) -> str:
    """An sbatch script.

    Args:
        cluster: What to ask for.
        command: Words after ``tuneloop``: ``["train", "proj.yaml", ...]``.
        time: Slurm's limit, as ``sbatch --time`` has it.
        partition: Which part of the cluster.
        account: Who pays.
    """
    asked = {
        "gpus-per-node": cluster.gpus or None,
        "cpus-per-task": cluster.cpus,
        "mem": cluster.memory,
        "partition": partition,
        "account": account,
    }
    return SLURM.format(
        job=cluster.job,
        nodes=cluster.nodes,
        processes=cluster.processes,
        resources="".join(f"#SBATCH --{option}={value}\n" for option, value in asked.items() if value is not None),
        time=time,
        warning_s=cluster.warning_s,
        wait_s=cluster.wait_s,
        threads=max(1, (cluster.cpus or cluster.processes) // cluster.processes),
        python=shlex.quote(cluster.python),
        start=START,
        command=shlex.join(command),
        resume=RESUME,
    )


def kubernetes(
    cluster: Cluster,
    command: Sequence[str],
    *,
    image: str,
    claim: str,
    folder: str = "/workspace",
    namespace: str | None = None,
    jobset: bool = False,
) -> str:
    """Manifests: a headless Service and an indexed Job, or a JobSet (which makes its own Service).

    Args:
        cluster: What to ask for.
        command: Words after ``tuneloop``.
        image: A container image with tuneloop in it.
        claim: A PersistentVolumeClaim that all pods can write (ReadWriteMany): project, models, runs.
        folder: Where the claim is mounted; the command runs there.
        namespace: Default: the one that kubectl uses.
        jobset: For clusters with the JobSet controller: the pods of a failed attempt are replaced together.
    """
    named = {"name": cluster.job} | ({"namespace": namespace} if namespace else {})
    first = f"{cluster.job}-train-0-0" if jobset else f"{cluster.job}-0"
    pod = _pod(cluster, command, f"{first}.{cluster.job}", image, claim, folder)
    if not jobset:
        pod["subdomain"] = cluster.job
    job = _job(cluster, pod)
    if jobset:
        spec = {
            "network": {"enableDNSHostnames": True, "subdomain": cluster.job},
            "failurePolicy": {"maxRestarts": RETRIES},
            "replicatedJobs": [{"name": "train", "replicas": 1, "template": {"spec": job}}],
        }
        made = [{"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": named, "spec": spec}]
    else:
        service = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {"app": cluster.job}}
        made = [
            {"apiVersion": "v1", "kind": "Service", "metadata": named, "spec": service},
            {"apiVersion": "batch/v1", "kind": "Job", "metadata": named, "spec": job},
        ]
    return yaml.safe_dump_all(made, sort_keys=False)


def _job(cluster: Cluster, pod: dict[str, Any]) -> dict[str, Any]:
    return {
        "completionMode": "Indexed",
        "completions": cluster.nodes,
        "parallelism": cluster.nodes,
        "backoffLimit": RETRIES * cluster.nodes,
        "podFailurePolicy": {"rules": _rules()},
        "template": {"metadata": {"labels": {"app": cluster.job}}, "spec": pod},
    }


def _rules() -> list[dict[str, Any]]:
    """Stopped: start again and do not count it. Wrong configuration: never again. The rest counts towards the limit."""
    return [
        {"action": "Ignore", "onExitCodes": {"containerName": "train", "operator": "In", "values": [RESUME]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"containerName": "train", "operator": "In", "values": HOPELESS}},
    ]


def _pod(cluster: Cluster, command: Sequence[str], first: str, image: str, claim: str, folder: str) -> dict[str, Any]:
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    limits: dict[str, Any] = {
        "nvidia.com/gpu": cluster.gpus or None,
        "cpu": cluster.cpus,
        "memory": cluster.memory,
    }
    words = [
        f"--nnodes={cluster.nodes}",
        f"--nproc-per-node={cluster.processes}",
        "--node-rank=$(NODE_RANK)",
        f"--master-addr={first}",
        f"--master-port={PORT}",
        f"--shutdown-timeout={cluster.wait_s}",
        *("-m", "tuneloop"),
        *(word.replace("$(", "$$(") for word in command),
    ]
    container = {
        "name": "train",
        "image": image,
        "command": [cluster.python, "-m", START],
        "args": words,
        "workingDir": folder,
        "env": [{"name": "NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": index}}}],
        "ports": [{"containerPort": PORT}],
        "resources": {"limits": {k: v for k, v in limits.items() if v is not None}},
        "volumeMounts": [{"name": "shared", "mountPath": folder}, {"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108
    }
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": cluster.warning_s,
        "containers": [container],
        "volumes": [
            {"name": "shared", "persistentVolumeClaim": {"claimName": claim}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},  # NCCL passes gradients through it
        ],
    }
