from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tuneloop.models import available_bytes, peak_bytes, resident_bytes

GB = 10**9


def machine(tmp: Path, groups: str = "", available_kb: int = 8_000_000) -> tuple[Path, Path]:
    """Folders that look like /proc and /sys/fs/cgroup."""
    proc, cgroup = tmp / "proc", tmp / "cgroup"
    (proc / "self").mkdir(parents=True)
    cgroup.mkdir()
    (proc / "meminfo").write_text(f"MemTotal:  16000000 kB\nMemAvailable:    {available_kb} kB\n")
    (proc / "self/cgroup").write_text(groups)
    return proc, cgroup


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_without_a_limit_it_is_what_the_kernel_says(tmp_path: Path) -> None:
    proc, cgroup = machine(tmp_path)
    assert available_bytes(proc=proc, cgroup=cgroup) == 8_000_000 * 1024


def test_a_group_of_version_2_is_its_limit_less_its_use_with_the_cache_given_back(tmp_path: Path) -> None:
    proc, cgroup = machine(tmp_path, "0::/pod/one\n")
    group(cgroup / "pod/one", memory__max=4 * GB, memory__current=3 * GB, memory__stat=f"anon 5\ninactive_file {GB}")
    assert available_bytes(proc=proc, cgroup=cgroup) == 2 * GB


def test_the_tightest_group_on_the_way_up_counts(tmp_path: Path) -> None:
    proc, cgroup = machine(tmp_path, "0::/pod/one\n")
    group(cgroup / "pod/one", memory__max="max", memory__current=GB)
    group(cgroup / "pod", memory__max=2 * GB, memory__current=GB)
    assert available_bytes(proc=proc, cgroup=cgroup) == GB


def test_a_container_of_version_1_sees_its_own_group_at_the_top(tmp_path: Path) -> None:
    proc, cgroup = machine(tmp_path, "5:cpu:/x\n4:memory:/docker/abc\n")
    group(cgroup / "memory", memory__limit_in_bytes=3 * GB, memory__usage_in_bytes=GB)
    assert available_bytes(proc=proc, cgroup=cgroup) == 2 * GB


def test_no_limit_of_version_1_is_a_huge_number(tmp_path: Path) -> None:
    proc, cgroup = machine(tmp_path, "4:memory:/\n")
    group(cgroup / "memory", memory__limit_in_bytes=9223372036854771712, memory__usage_in_bytes=GB)
    assert available_bytes(proc=proc, cgroup=cgroup) == 8_000_000 * 1024


def test_a_system_that_does_not_say_is_none(tmp_path: Path) -> None:
    assert available_bytes(proc=tmp_path, cgroup=tmp_path) is None


def test_memory_of_a_process_is_what_it_holds() -> None:
    code = (
        "from tuneloop.models import resident_bytes, peak_bytes\n"
        "before = resident_bytes()\n"
        "held = bytearray(b'x' * 200_000_000)\n"
        "print(resident_bytes() - before, len(held))\n"
        "del held\n"
        "print(peak_bytes() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    grown, _, peak = map(int, done.stdout.split())
    assert abs(grown - 200e6) < 20e6
    assert peak > 180e6


def test_this_process_is_below_its_peak() -> None:
    assert 0 < resident_bytes() <= peak_bytes() * 1.05
