"""``tuneloop launch``: write the file that starts a training on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tuneloop.cli.options import Overrides, Project
from tuneloop.progress import log
from tuneloop.rundir import write_atomic
from tuneloop.train import Cluster, kubernetes_manifests, slurm_script

app = typer.Typer(help="Write the file that starts a training on a cluster.", no_args_is_help=True)

Nodes = Annotated[int, typer.Option(min=1, help="Machines.")]
Gpus = Annotated[int, typer.Option(min=0, help="GPUs of a machine; one process each. 0: one process on the CPU.")]
Cpus = Annotated[int | None, typer.Option(min=1, help="CPU cores of a machine.")]
Memory = Annotated[str | None, typer.Option(help="Memory of a machine, e.g. 200G (Slurm), 200Gi (Kubernetes).")]
Warning_ = Annotated[int, typer.Option("--warning-s", min=60, help="Seconds for the last checkpoint before the end.")]
Python = Annotated[str, typer.Option(help="The Python that has tuneloop, as the machines find it.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="The file to write; default: stdout.")]


@app.command(epilog="Example: tuneloop launch slurm proj.yaml --nodes 2 --gpus 8 -o job.sh && sbatch job.sh")
def slurm(
    project: Project,
    overrides: Overrides = None,
    nodes: Nodes = 1,
    gpus: Gpus = 8,
    cpus: Cpus = None,
    memory: Memory = None,
    time: Annotated[
        str, typer.Option(help="Slurm's time limit; the job is queued again when it is reached.")
    ] = "24:00:00",
    partition: Annotated[str | None, typer.Option(help="Slurm's partition.")] = None,
    account: Annotated[str | None, typer.Option(help="Slurm's account.")] = None,
    warning_s: Warning_ = 300,
    python: Python = "python",
    output: Output = None,
) -> None:
    """Write an sbatch script: checkpoint before the time limit, then queued again until the training is done."""
    cluster = Cluster(_name(project, overrides), nodes, gpus, cpus, memory, warning_s, python)
    words = ["train", str(project), *(overrides or ())]
    _write(slurm_script(cluster, words, time=time, partition=partition, account=account), output)


@app.command(epilog="Example: tuneloop launch kubernetes proj.yaml --image IMAGE --claim CLAIM | kubectl apply -f -")
def kubernetes(
    project: Project,
    image: Annotated[str, typer.Option(help="A container image with tuneloop in it.")],
    claim: Annotated[str, typer.Option(help="A PersistentVolumeClaim that all pods can write.")],
    overrides: Overrides = None,
    nodes: Nodes = 1,
    gpus: Gpus = 8,
    cpus: Cpus = None,
    memory: Memory = None,
    folder: Annotated[
        str, typer.Option(help="Where the claim is mounted; PROJECT.yaml is relative to it.")
    ] = "/workspace",
    namespace: Annotated[str | None, typer.Option(help="Kubernetes' namespace.")] = None,
    jobset: Annotated[bool, typer.Option("--jobset", help="A JobSet instead of a Job and a Service.")] = False,
    warning_s: Warning_ = 300,
    python: Python = "python",
    output: Output = None,
) -> None:
    """Write Kubernetes manifests: pods that are moved or stopped come back and go on from their checkpoint."""
    cluster = Cluster(_name(project, overrides), nodes, gpus, cpus, memory, warning_s, python)
    words = ["train", str(project), *(overrides or ())]
    made = kubernetes_manifests(
        cluster, words, image=image, claim=claim, folder=folder, namespace=namespace, jobset=jobset
    )
    _write(made, output)


def _name(project: Path, overrides: list[str] | None) -> str:
    """The run's name; the project is read, so that a mistake shows here and not after hours in a queue."""
    from tuneloop.loop import load_project

    return load_project(project, overrides or ()).value.name


def _write(text: str, output: Path | None) -> None:
    if output is None:
        print(text, end="")
        return
    write_atomic(output, text)
    log(f"written: {output}")
