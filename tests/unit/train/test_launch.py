"""Generated files: an sbatch script that runs (with Slurm's commands faked) and manifests with the fields that matter."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tuneloop.cli.app import app
from tuneloop.errors import ConfigError
from tuneloop.train import Cluster, kubernetes_manifests, slurm_script
from tuneloop.train.parallel.start import exit_code

CLUSTER = Cluster("Bank_Support.v2", nodes=2, gpus=8, cpus=64, memory="200G")
COMMAND = ["train", "my project.yaml", "train.epochs=2"]


def manifests(**options: Any) -> list[dict[str, Any]]:
    text = kubernetes_manifests(CLUSTER, COMMAND, image="registry.local/tuneloop:1", claim="shared", **options)
    return list(yaml.safe_load_all(text))


def test_the_script_is_valid_bash_and_asks_for_what_was_asked(tmp_path: Path) -> None:
    text = slurm_script(CLUSTER, COMMAND, time="02:00:00", partition="a100", account="bank")
    (tmp_path / "job.sh").write_text(text)
    subprocess.run(["bash", "-n", tmp_path / "job.sh"], check=True)
    asked = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert asked == [
        "job-name=tuneloop-bank-support-v2", "nodes=2", "ntasks-per-node=1", "gpus-per-node=8", "cpus-per-task=64",
        "mem=200G", "partition=a100", "account=bank", "time=02:00:00", "signal=B:USR1@300", "requeue",
        "open-mode=append", "output=tuneloop-bank-support-v2-%j.log",
    ]  # fmt: skip
    assert "-m tuneloop train 'my project.yaml' train.epochs=2" in text


@pytest.fixture
def slurm(tmp_path: Path) -> Callable[[str], subprocess.Popen[str]]:
    """Starts the script where srun, scancel and scontrol are scripts that write down how they were called."""
    fakes = tmp_path / "bin"
    fakes.mkdir()

    def start(srun: str) -> subprocess.Popen[str]:
        for name, body in {
            "srun": f'printf "%s\\n" "$@" > srun.args; echo $$ > srun.pid; {srun}',
            "scancel": 'echo "$@" >> calls; kill -TERM "$(cat srun.pid)"',
            "scontrol": 'if [ "$1" = show ]; then echo node7; echo node8; else echo "$@" >> calls; fi',
        }.items():
            (fakes / name).write_text(f"#!/bin/bash\n{body}\n")
            (fakes / name).chmod(0o755)
        (tmp_path / "job.sh").write_text(slurm_script(CLUSTER, COMMAND))
        variables = {"SLURM_JOB_ID": "41", "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_NODELIST": "node[7-8]"}
        return subprocess.Popen(
            ["bash", "job.sh"], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
            env=os.environ | variables | {"PATH": f"{fakes}:{os.environ['PATH']}"},
        )  # fmt: skip

    return start


def test_the_step_starts_torchrun_on_the_first_node(
    slurm: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = slurm("exit 0")
    process.communicate(timeout=30)
    assert process.returncode == 0
    words = (tmp_path / "srun.args").read_text().splitlines()
    assert {"--nnodes=2", "--nproc-per-node=8", "--rdzv-endpoint=node7:20041", "--rdzv-id=41-0"} < set(words)
    assert words[-5:] == ["-m", "tuneloop", *COMMAND]
    assert not (tmp_path / "calls").exists()


def test_a_job_near_its_limit_is_stopped_and_queued_again(
    slurm: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = slurm("trap 'sleep 0.5; exit 75' TERM; while true; do sleep 0.05; done")
    end = time.monotonic() + 30
    while not (tmp_path / "srun.pid").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=30)
    assert process.returncode == 75
    assert (tmp_path / "calls").read_text().splitlines() == ["--signal=TERM 41.0", "requeue 41"]


def test_a_failed_job_is_not_queued_again(slurm: Callable[[str], subprocess.Popen[str]], tmp_path: Path) -> None:
    process = slurm("exit 2")
    process.communicate(timeout=30)
    assert process.returncode == 2
    assert not (tmp_path / "calls").exists()


def test_the_job_has_one_pod_a_machine_that_finds_the_first_one() -> None:
    service, job = manifests()
    pod = job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert (service["kind"], service["spec"]["clusterIP"]) == ("Service", "None")
    assert service["spec"]["selector"].items() <= job["spec"]["template"]["metadata"]["labels"].items()
    assert (job["spec"]["completionMode"], job["spec"]["completions"], job["spec"]["parallelism"]) == ("Indexed", 2, 2)
    assert pod["subdomain"] == service["metadata"]["name"] == "tuneloop-bank-support-v2"
    assert "--master-addr=tuneloop-bank-support-v2-0.tuneloop-bank-support-v2" in container["args"]
    assert {"--nnodes=2", "--nproc-per-node=8", "--node-rank=$(NODE_RANK)"} < set(container["args"])
    assert container["env"][0]["name"] == "NODE_RANK"
    assert container["args"][-5:] == ["-m", "tuneloop", *COMMAND]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8, "cpu": 64, "memory": "200G"}
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "shared"}


def test_a_stopped_pod_comes_back_without_counting_as_a_failure() -> None:
    job = manifests()[1]["spec"]
    stopped, _moved, hopeless = job["podFailurePolicy"]["rules"]
    assert job["template"]["spec"]["restartPolicy"] == "Never", "podFailurePolicy needs it"
    assert (stopped["action"], stopped["onExitCodes"]["values"]) == ("Ignore", [75])
    assert hopeless["action"] == "FailJob"
    assert ConfigError.exit_code in hopeless["onExitCodes"]["values"]
    assert job["template"]["spec"]["terminationGracePeriodSeconds"] == 300


def test_a_jobset_names_its_first_pod_as_its_controller_does() -> None:
    (jobset,) = manifests(jobset=True, namespace="ml")
    assert (jobset["kind"], jobset["metadata"]["namespace"]) == ("JobSet", "ml")
    inner = jobset["spec"]["replicatedJobs"][0]
    args = inner["template"]["spec"]["template"]["spec"]["containers"][0]["args"]
    name = jobset["metadata"]["name"]
    assert f"--master-addr={name}-{inner['name']}-0-0.{jobset['spec']['network']['subdomain']}" in args


def test_the_command_reads_the_project_before_the_queue_does(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("name: x\ndata: {path: rows.csv}\nmodel: {name: some-model}\ntrain: {epoch: 2}\n")
    with pytest.raises(ConfigError, match="epoch"):
        CliRunner().invoke(app, ["launch", "slurm", str(tmp_path / "p.yaml")], catch_exceptions=False)


def test_the_command_writes_the_script(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("name: x\ndata: {path: rows.csv}\nmodel: {name: some-model}\n")
    words = ["launch", "slurm", str(tmp_path / "p.yaml"), "train.epochs=2", "--nodes", "3", "--gpus", "4"]
    found = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "job.sh")], catch_exceptions=False)
    assert found.exit_code == 0
    text = (tmp_path / "job.sh").read_text()
    assert "#SBATCH --nodes=3" in text
    assert "--nproc-per-node=4" in text


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([75, 75], 75), ([75, -15], 75), ([5, 75], 5), ([-9, 5], 5), ([-9, -15], 1), ([2, 2], 2)],
)
def test_the_exit_code_of_several_processes(codes: list[int], expected: int) -> None:
    assert exit_code(codes) == expected
