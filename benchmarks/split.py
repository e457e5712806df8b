"""The split: seconds and memory at millions of rows, beside scikit-learn's splitters.

    python benchmarks/split.py [--rows 5000000] [--group-rows 200000] [--rounds 3]

Cases:
- digest: rows a second of ``split.digest`` on parts of 20,000 conversations of about 60 characters.
- stratified: digests on disk (77 classes with Zipf frequencies) -> the split of every row, near leaks off. scikit-learn:
  ``train_test_split(stratify=...)`` twice over class codes in memory. It looks for no leak and no group, its result
  depends on the order of the rows, and it is told the codes: a lower bound of the work rather than a rival.
- grouped: the same with ten rows a customer. scikit-learn: ``StratifiedGroupKFold`` (two of seven folds).

Memory is the peak of the whole process (VmHWM). ``kl`` is the divergence of the test split's classes from all rows', in
thousandths of a nat. The gate ``ok``: the test split holds 15 % within one percentage point, and no group straddles.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

CLASSES, PART_ROWS, DIGEST_ROWS = 77, 20_000, 200_000
RATIO = 0.15


def peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def codes(rows: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).zipf(1.5, rows) % CLASSES


def write_digests(folder: Path, rows: int) -> None:
    """Digests with random hashes, as ``split.digest`` gives them."""
    import numpy as np
    import polars as pl

    rng, names = np.random.default_rng(1), pl.Series([f"intent_{k}_of_the_bank" for k in range(CLASSES)])
    label = names.gather(codes(rows))
    pl.DataFrame(
        {
            "at": np.arange(rows),
            "id": pl.Series(np.arange(rows)).cast(pl.String).str.zfill(16),
            "source": np.zeros(rows, np.int32),
            "pinned": np.full(rows, 3, np.int8),
            "key_high": rng.integers(1, 2**64, rows, dtype=np.uint64),
            "key_low": rng.integers(1, 2**64, rows, dtype=np.uint64),
            "group": np.zeros(rows, np.uint64),
            "column_group": rng.integers(1, rows // 10 + 1, rows).astype(np.uint64),
            "label": label,
            "stratum 0": label,
        }
    ).write_parquet(folder / f"{rows}.parquet")


def judged(test: Any, labels: Any, groups: Any, seconds: float, peak: float) -> dict[str, Any]:
    """Memory was taken before this: the check itself is not part of the work."""
    import numpy as np

    p, q = (np.bincount(x, minlength=CLASSES) / len(x) for x in (labels[test], labels))
    used = p > 0
    straddles = len(np.intersect1d(groups[test], groups[~test])) if groups is not None else 0
    return {
        "seconds": seconds,
        "peak_mb": peak,
        "kl": 1000 * float((p[used] * np.log(p[used] / q[used])).sum()),
        "ok": bool(abs(test.mean() - RATIO) < 0.01 and not straddles),
    }


def groups_of(folder: Path, rows: int) -> Any:
    import polars as pl

    return pl.read_parquet(folder / f"{rows}.parquet", columns=["column_group"]).to_series().to_numpy()


def tuneloop(folder: Path, rows: int, grouped: bool) -> dict[str, Any]:
    import polars as pl

    from tuneloop.data import DataConfig
    from tuneloop.data.split import decide

    digests = pl.scan_parquet(folder / f"{rows}.parquet")
    if not grouped:
        digests = digests.with_columns(column_group=pl.lit(0, dtype=pl.UInt64))
    clock = time.perf_counter()
    config = DataConfig(sources="-", near_leaks=None, group_column="customer" if grouped else None)
    verdicts = decide(digests, config).verdicts
    seconds, peak = time.perf_counter() - clock, peak_mb()
    test = (verdicts["split"] == "test").to_numpy()
    return judged(test, codes(rows), groups_of(folder, rows) if grouped else None, seconds, peak)


def sklearn(folder: Path, rows: int, grouped: bool) -> dict[str, Any]:
    import numpy as np
    from sklearn.model_selection import StratifiedGroupKFold, train_test_split

    labels, test = codes(rows), np.zeros(rows, dtype=bool)
    groups = groups_of(folder, rows) if grouped else None
    clock = time.perf_counter()
    if grouped:
        folds = StratifiedGroupKFold(7, shuffle=True, random_state=0).split(labels, labels, groups)
        test[next(folds)[1]] = True
        next(folds)
    else:
        # classes of one row have no place in its stratification: they train
        usable = np.flatnonzero(np.bincount(labels)[labels] > 6)
        rest, mine = train_test_split(usable, test_size=RATIO, stratify=labels[usable], random_state=0)
        train_test_split(rest, test_size=RATIO / (1 - RATIO), stratify=labels[rest], random_state=0)
        test[mine] = True
    return judged(test, labels, groups, time.perf_counter() - clock, peak_mb())


def digest() -> dict[str, Any]:
    import random

    from tuneloop.data import DataConfig
    from tuneloop.data.frame import make_frame
    from tuneloop.data.split import digest as made

    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 8))) for _ in range(5_000)]
    frames = []
    for start in range(0, DIGEST_ROWS, PART_ROWS):
        texts = [" ".join(rng.choices(words, k=10)) for _ in range(PART_ROWS)]
        frames.append(
            make_frame(
                {
                    "id": [f"{start + k:016}" for k in range(PART_ROWS)],
                    "messages": [
                        [{"role": "user", "content": t}, {"role": "assistant", "content": "yes"}] for t in texts
                    ],
                    "source": [0] * PART_ROWS,
                    "fields": [f'{{"customer": "c{k % 999}"}}' for k in range(PART_ROWS)],
                }
            )
        )
    config = DataConfig(sources="-", near_leaks=None, group_column="customer")
    clock = time.perf_counter()
    for frame in frames:
        made(frame, config)
    return {"rows_per_s": DIGEST_ROWS / (time.perf_counter() - clock), "ok": True}


ARMS = {"tuneloop": tuneloop, "sklearn": sklearn}


def run(case: str, arm: str, folder: str, rows: int) -> dict[str, Any]:
    import subprocess

    words = [sys.executable, __file__, "--case", case, "--arm", arm, "--folder", folder, "--rows", str(rows)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(harness.ROOT / "src"), *sys.path[1:]])}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"  {case} {arm}: {found}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--group-rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        if given.case == "digest":
            print(json.dumps(digest()))
        else:
            print(json.dumps(ARMS[given.arm](given.folder, given.rows, given.case == "grouped")))
        return
    cases = [
        ("digest", DIGEST_ROWS, ("tuneloop",)),
        ("stratified", given.rows, ("tuneloop", "sklearn")),
        ("grouped", given.rows, ("tuneloop",)),
        ("grouped", given.group_rows, ("tuneloop", "sklearn")),
    ]
    command = " ".join(["python benchmarks/split.py", *sys.argv[1:]])
    versions = {name: version(name) for name in ("polars", "numpy", "scikit-learn")}
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in {given.rows, given.group_rows}:
            write_digests(Path(folder), rows)
        for case, rows, arms in cases:
            found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
            for _ in range(given.rounds):
                for arm in arms:
                    found[arm].append(run(case, arm, folder, rows))
            for arm in arms:
                lines += of(f"{case}, {rows:,} rows", arm, found, command, versions)
    print(harness.write("split", lines))


def of(
    case: str, arm: str, found: dict[str, list[dict[str, Any]]], command: str, versions: dict[str, str]
) -> list[dict[str, Any]]:
    """The result lines of one arm."""
    units = {"rows_per_s": "rows/s", "seconds": "s", "peak_mb": "MB", "kl": "1/1000 nat"}
    out = []
    for metric in [key for key in units if key in found[arm][0]]:
        values = [one[metric] for one in found[arm]]
        rival = [one[metric] for one in found["sklearn"]] if arm == "tuneloop" and "sklearn" in found else []
        out.append(
            harness.line(
                "split", case, arm, metric, units[metric], values,
                against="sklearn" if rival else "", ratios=[a / b for a, b in zip(values, rival, strict=True)] if rival else (),
                ok=all(one["ok"] for one in found[arm]), command=command, versions=versions,
            )
        )  # fmt: skip
    return out


if __name__ == "__main__":
    main()
