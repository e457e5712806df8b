"""Near-duplicates beside datasketch, rensa, text-dedup and data-juicer: rows a second, memory, recall and precision.

    python benchmarks/neardup.py [--rows 200000] [--rounds 3] [--arms tuneloop,datasketch,...]
    python benchmarks/neardup.py --scale 1000000      # time and memory of the step alone, digests on disk

Documents of about 100 characters (pseudo-words with Zipf frequencies, or Chinese characters); to a third of them an
edited copy is planted somewhere, so that a quarter of all rows are copies. What is true is decided by the plain sets of character 5-grams: a pair is true when
its Jaccard similarity is at least 0.7, whether it was planted or is an accident. Recall is measured over the true pairs
that were planted or found by any arm, precision over the pairs that an arm reports.

Speed is also given by processor time, which a busy machine changes less. Every arm is told to find pairs of Jaccard similarity 0.7, the peers with 128 permutations (their
default or near it; tuneloop's sketches have 64), and runs in a process of its own with
the texts in memory when the clock starts. Memory is the peak of the whole process (VmHWM of the kernel: ru_maxrss would
inherit that of the parent). text-dedup knows no character n-grams (word 2-grams here) and reports clusters without
checking them: what counts as its pairs is a row and the representative of its cluster. data-juicer (character 5-grams)
does not check either: what counts is a row and the first row of each of its buckets. Both work with as many processes as
there are cores, and only the main one's memory is counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

THRESHOLD = 0.7
PERMUTATIONS = 128
BUCKETS = (0.7, 0.75, 0.8, 0.9, 1.0)
PEERS = {
    "datasketch": ["datasketch==2.0.0", "xxhash==4.1.0"],
    "rensa": ["rensa==0.5.0"],
    "text-dedup": ["text-dedup==0.4.0"],
    "data-juicer": ["py-data-juicer==1.6.1", "aiohttp", "scipy==1.17.1"],
}
METRICS = (
    ("rows per second", "rows/s", "rows_per_s"),
    ("rows per processor second", "rows/s", "rows_per_cpu_s"),
    ("peak memory", "GB", "peak_gb"),
)
SCALED = ("exact_duplicates", "near_duplicates")
SCALE_METRICS = (
    ("digest", "s", "digest_s"),
    ("decide", "s", "decide_s"),
    ("decide, processor time", "s", "cpu_s"),
    ("peak memory of decide", "GB", "peak_gb"),
    ("dropped", "rows", "dropped"),
)
ONCE = ("data-juicer",)
"""Arms that take minutes: measured in the first round only."""
PURE_PYTHON = ("datasketch", "datasketch 32x4", "text-dedup", "data-juicer")
Pairs = list[tuple[int, int]]


def documents(rows: int, case: str, seed: int = 0) -> tuple[list[str], Pairs]:
    """Texts in random order, and the planted pairs."""
    rng = random.Random(seed)
    if case == "zh":
        units = [chr(0x4E00 + k) for k in range(3000)]
        length, joint = (60, 140), ""
    else:
        letters = "etaoinshrdlucmfwypvbgkjqxz"
        units = ["".join(rng.choices(letters, range(26, 0, -1), k=rng.randint(2, 9))) for _ in range(20_000)]
        length, joint = (11, 23), " "
    weights = [1 / (k + 10) for k in range(len(units))]
    pool = rng.choices(units, weights, k=rows * length[1])
    at = iter(pool)
    originals = [[next(at) for _ in range(rng.randint(*length))] for _ in range(rows - rows // 4)]
    texts = [joint.join(words) for words in originals]
    texts += [edited(words, joint, pool, rng) for words in originals[: rows // 4]]
    order = list(range(rows))
    rng.shuffle(order)
    place = {old: new for new, old in enumerate(order)}
    planted = [(place[k], place[rows - rows // 4 + k]) for k in range(rows // 4)]
    return [texts[k] for k in order], [(min(p), max(p)) for p in planted]


def edited(words: list[str], joint: str, pool: list[str], rng: random.Random) -> str:
    """A copy with up to two new words, or with up to six new characters: similarities from 0.5 to 1, evenly spread."""
    if rng.random() < 0.5:
        copy = list(words)
        for _ in range(rng.randint(0, 2)):
            place = rng.randrange(len(copy))
            copy[place : place + rng.randint(0, 1)] = [rng.choice(pool)]
        return joint.join(copy)
    text = list(joint.join(words))
    for place in rng.sample(range(len(text)), rng.randint(1, 6)):
        text[place] = rng.choice(pool)[0]
    return "".join(text)


def shingles(text: str) -> frozenset[str]:
    """Written anew: the judge shares no code with what it judges."""
    return frozenset(text[k : k + 5] for k in range(max(len(text) - 4, 1)))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b)


def arm_tuneloop(texts: list[str]) -> Pairs:
    import polars as pl

    from tuneloop.data.minhash import Shingling, near_pairs

    found = near_pairs(pl.Series(texts), THRESHOLD, shingling=Shingling("characters"))
    return list(zip(found["i"].to_list(), found["j"].to_list(), strict=True))


def arm_tuneloop_step(texts: list[str]) -> Pairs:
    """The whole step: conversations in, verdicts out; a dropped row and the kept row because of which it goes."""
    import polars as pl

    from tuneloop.data.frame import make_frame
    from tuneloop.data.steps.near import NearDuplicates

    ids = [str(k) for k in range(len(texts))]
    frame = make_frame({"id": ids, "messages": [[{"role": "user", "content": t}] for t in texts]})
    clock.start()  # the frame is what the step is given
    gone = (
        NearDuplicates(threshold=THRESHOLD, shingle="characters").apply(frame).filter(pl.col("partner").is_not_null())
    )
    return [(int(a), int(b)) for a, b in zip(gone["partner"], gone["id"], strict=True)]


def arm_datasketch(texts: list[str], **bands: tuple[int, int]) -> Pairs:
    import xxhash
    from datasketch import MinHash, MinHashLSH

    lsh = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS, **bands)
    found: Pairs = []
    tokens = ([s.encode() for s in shingles(text)] for text in texts)
    # its default hash is SHA-1; xxhash is the fastest that it can be given
    sketches = MinHash.generator(tokens, num_perm=PERMUTATIONS, hashfunc=xxhash.xxh32_intdigest)
    for j, sketch in enumerate(sketches):
        near = lsh.query(sketch)
        if near:
            own = shingles(texts[j])
            found += [(i, j) for i in near if jaccard(shingles(texts[i]), own) >= THRESHOLD]
        lsh.insert(j, sketch, check_duplication=False)
    return found


def arm_datasketch_32x4(texts: list[str]) -> Pairs:
    """With bands for the recall that is asked for; its own choice for this threshold overlooks every ninth pair."""
    return arm_datasketch(texts, params=(32, 4))


def arm_rensa(texts: list[str]) -> Pairs:
    from rensa import RMinHash, RMinHashLSH

    sketches = RMinHash.from_token_sets([list(shingles(text)) for text in texts], PERMUTATIONS, 42)
    lsh = RMinHashLSH(THRESHOLD, PERMUTATIONS, 32)
    lsh.insert_many(sketches)
    found: Pairs = []
    for j, near in enumerate(lsh.query_all(sketches)):
        earlier = [i for i in near if i < j]
        if earlier:
            own = shingles(texts[j])
            found += [(i, j) for i in earlier if jaccard(shingles(texts[i]), own) >= THRESHOLD]
    return found


def arm_text_dedup(texts: list[str]) -> Pairs:
    from datasets import Dataset
    from text_dedup import minhash

    with tempfile.TemporaryDirectory() as folder:
        Dataset.from_dict({"text": texts}).save_to_disk(f"{folder}/in")
        clock.start()
        arguments = ["--path", f"{folder}/in", "--local", "--output", f"{folder}/out", "--column", "text", "--split", "train",
                     "--ngram", "2", "--min_length", "1", "--num_perm", str(PERMUTATIONS), "--threshold", str(THRESHOLD),
                     "--num_proc", str(len(os.sched_getaffinity(0))), "--cache_dir", f"{folder}/cache"]  # fmt: skip
        with contextlib.redirect_stdout(sys.stderr):
            minhash.main(arguments, standalone_mode=False)
        clock.stop()
        roots = ((minhash.uf.find(j), j) for j in range(len(texts)))
        return [(min(p), max(p)) for p in roots if p[0] != p[1]]


def arm_data_juicer(texts: list[str]) -> Pairs:
    from data_juicer.core.data import NestedDataset
    from data_juicer.ops.deduplicator import document_minhash_deduplicator as module

    step = module.DocumentMinhashDeduplicator(
        tokenization="character", window_size=5, num_permutations=PERMUTATIONS, jaccard_threshold=THRESHOLD
    )
    data = NestedDataset.from_dict({"text": texts})
    with contextlib.redirect_stdout(sys.stderr):
        hashed = data.map(step.compute_hash, num_proc=len(os.sched_getaffinity(0)))
        step.process(hashed)
    clock.stop()
    buckets = (bucket for table in step.hash_tables for bucket in table.values())
    return sorted({(min(bucket), j) for bucket in buckets for j in bucket if j != min(bucket)})


ARMS: dict[str, Callable[[list[str]], Pairs]] = {
    "tuneloop": arm_tuneloop,
    "tuneloop step": arm_tuneloop_step,
    "datasketch": arm_datasketch,
    "datasketch 32x4": arm_datasketch_32x4,
    "rensa": arm_rensa,
    "text-dedup": arm_text_dedup,
    "data-juicer": arm_data_juicer,
}


class Clock:
    """Wall and processor seconds (of all processes) between the last start and the first stop after it."""

    def __init__(self) -> None:
        self._begun, self._spent, self._running = (0.0, 0.0), (0.0, 0.0), False

    def start(self) -> None:
        self._begun, self._running = self._now(), True

    def stop(self) -> tuple[float, float]:
        if self._running:
            now = self._now()
            self._spent, self._running = (now[0] - self._begun[0], now[1] - self._begun[1]), False
        return self._spent

    @staticmethod
    def _now() -> tuple[float, float]:
        used = os.times()
        return time.perf_counter(), used.user + used.system + used.children_user + used.children_system


clock = Clock()


def peak_gb() -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1e6


def run_arm(name: str, folder: Path) -> None:
    """In the arm's own process: measure, write the pairs, print the figures."""
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    ARMS[name](texts[:200])  # imports are not what is measured
    clock.start()
    found = ARMS[name](texts)
    wall, cpu = clock.stop()
    memory = peak_gb()
    (folder / f"{name}.json").write_text(json.dumps(found))
    print(json.dumps({"rows_per_s": len(texts) / wall, "rows_per_cpu_s": len(texts) / cpu, "peak_gb": memory}))


def judge(texts: list[str], planted: Pairs, found: dict[str, Pairs]) -> dict[str, dict[str, float]]:
    """Recall (whole and by similarity) and precision of each arm."""
    every = set(planted).union(*found.values())
    similarity = {p: jaccard(shingles(texts[p[0]]), shingles(texts[p[1]])) for p in every}
    true = {p for p, s in similarity.items() if s >= THRESHOLD}
    print(f"  {len(true)} true pairs, {len(true & set(planted))} of them planted", file=sys.stderr)
    out = {}
    for name, own in found.items():
        hits = true & set(own)
        out[name] = {"recall": len(hits) / len(true), "precision": len(hits) / max(len(set(own)), 1)}
        for low, high in zip(BUCKETS, [*BUCKETS[1:], 2.0], strict=True):
            inside = {p for p in true if low <= similarity[p] < high}
            if inside:
                label = f"recall at {low:.2f}" + ("" if high > 1 else f"-{high:.2f}")
                out[name][label] = len(inside & set(own)) / len(inside)
    return out


def peer(name: str) -> str:
    package = name.split(" ")[0]
    return harness.peer_python(package, PEERS[package], first=()) if package in PEERS else sys.executable


def compare(case: str, rows: int, rounds: int, names: list[str]) -> list[dict]:
    """One case: all arms in turn, then their pairs judged together."""
    texts, planted = documents(rows, case)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "texts.json").write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")
        results: dict[str, list[dict]] = {name: [] for name in names}
        for turn in range(rounds):
            for name in (n for n in names if turn == 0 or n not in ONCE):
                command = [peer(name), str(Path(__file__).resolve()), "--arm", name, "--folder", place]
                results[name].append(harness.once(harness.Arm(name, command, {"PYTHONHASHSEED": "0"})))
                last = results[name][-1]
                print(f"  {case} round {turn + 1}/{rounds} {name}: {last['rows_per_s']:.0f} rows/s, {last['peak_gb']:.2f} GB", file=sys.stderr, flush=True)  # fmt: skip
        found = {n: [tuple(p) for p in json.loads((folder / f"{n}.json").read_text())] for n in names}
    quality = judge(texts, planted, found)
    return [row for name in names for row in lines(f"{case}-{rows}", name, results, quality[name])]


def lines(case: str, name: str, results: dict[str, list[dict]], quality: dict[str, float]) -> list[dict]:
    """The result lines of one arm; ``ok`` is whether it finds what it must: recall 0.98, precision 0.999."""
    ok = quality["recall"] >= 0.98 and quality["precision"] >= 0.999
    command = f"python benchmarks/neardup.py --rows {case.rsplit('-', 1)[1]} --rounds {len(results[name])}"
    shared = {"ok": ok, "command": command, "versions": versions()}
    peers = [n for n in results if n in PURE_PYTHON]
    fastest = max(peers, key=lambda n: statistics.median(r["rows_per_s"] for r in results[n])) if peers else name
    out = []
    for metric, unit, key in METRICS:
        values = [r[key] for r in results[name]]
        ratios = [a / b[key] for a, b in zip(values, results[fastest], strict=False)]  # an arm of ONCE: the first
        out.append(harness.line("neardup", case, name, metric, unit, values, against=fastest, ratios=ratios, **shared))
    out += [
        harness.line("neardup", case, name, metric, "share", [value], **shared) for metric, value in quality.items()
    ]
    return out


def scale(rows: int) -> list[dict]:
    """Both steps as the runner uses them: a digest of each part written to disk, one decision over all of them."""
    from tuneloop.data.frame import make_frame
    from tuneloop.data.steps import create

    shared = {"command": f"python benchmarks/neardup.py --scale {rows}", "versions": versions()}
    spent = dict.fromkeys(SCALED, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, rows, 20_000):
            if start % 200_000 == 0:
                texts, _ = documents(min(200_000, rows - start), "en", seed=start)
            part = texts[start % 200_000 :][:20_000]
            ids = [f"{start + k:016x}" for k in range(len(part))]
            frame = make_frame({"id": ids, "messages": [[{"role": "user", "content": t}] for t in part]})
            for name in SCALED:
                begun = time.perf_counter()
                place = Path(folder, name)
                place.mkdir(exist_ok=True)
                create(name, {}).digest(frame).write_ipc(place / f"{start:012}.arrow")  # type: ignore[attr-defined]
                spent[name] += time.perf_counter() - begun
        del texts, frame
        out = []
        for name in SCALED:
            command = [sys.executable, str(Path(__file__).resolve()), "--decide", f"{folder}/{name}"]
            found = harness.once(harness.Arm(name, command, {})) | {"digest_s": spent[name]}
            for metric, unit, key in SCALE_METRICS:
                out.append(harness.line("neardup", f"scale-{rows}", name, metric, unit, [found[key]], **shared))
    return out


def decide(folder: Path) -> None:
    """In a process of its own: the decision over the digests in a folder, which is named after the step."""
    import polars as pl

    from tuneloop.data.steps import create

    digests = pl.scan_ipc(str(folder / "*.arrow"), row_index_name="at").with_columns(pl.col("at").cast(pl.Int64))
    clock.start()
    verdicts = create(folder.name, {}).decide(digests)
    wall, cpu = clock.stop()
    print(json.dumps({"decide_s": wall, "cpu_s": cpu, "peak_gb": peak_gb(), "dropped": verdicts.height}))


def versions() -> dict[str, str]:
    from importlib.metadata import version

    ours = {name: version(name) for name in ("numpy", "polars")}
    return ours | {name: packages[0].split("==")[1] for name, packages in PEERS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", default="en,zh")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--scale", type=int)
    parser.add_argument("--arm")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--decide", type=Path)
    arguments = parser.parse_args()
    if arguments.arm:
        run_arm(arguments.arm, arguments.folder)
    elif arguments.decide:
        decide(arguments.decide)
    elif arguments.scale:
        report("neardup-scale", scale(arguments.scale))
    else:
        for case in arguments.cases.split(","):
            report(f"neardup-{case}", compare(case, arguments.rows, arguments.rounds, arguments.arms.split(",")))


def report(bench: str, found: list[dict]) -> None:
    for row in found:
        print(f"{row['case']:14} {row['arm']:14} {row['metric']:25} {row['median']:>12,.3f} {row['unit']}")
    harness.write(bench, found)


if __name__ == "__main__":
    main()
