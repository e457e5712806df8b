"""The dozen lines at the end of a run."""

from __future__ import annotations

from pathlib import Path

from tuneloop.report import words
from tuneloop.report.gather import Facts, Gathered


def summary_lines(facts: Gathered, root: Path) -> list[str]:
    """One fact a line, the name of the thing in front; a stage that was not run is said to be missing."""
    lines = [
        *_data(facts.stage("data")),
        *_train(facts.stage("train")),
        *_quality(facts),
        *_small(facts),
        *_speed(facts),
    ]
    out = [f"{head:<10}{line}" for head, line in lines]
    if facts.missing:
        out.append(f"{'not run':<10}{', '.join(facts.missing)}")
    if (root / "report.html").exists():
        out.append(f"{'report':<10}{root / 'report.html'}")
    compared = facts.stage("compare") or {}
    one = next(iter([*compared.get("lost", ()), *compared.get("won", ()), *facts.prompts]), "ID")
    commands = [f"tuneloop chat {root}", f"tuneloop serve {root}", f"tuneloop trace {one} --run {root}"]
    return out + [f"{'next' if i == 0 else '':<10}{c}" for i, c in enumerate(commands)]


def _data(data: Facts | None) -> list[tuple[str, str]]:
    if data is None:
        return []
    n = data["counts"]
    reasons = ", ".join(f"{k} {v:,}" for v, k in _top(data["dropped"], 6))
    why = f" ({reasons})" if reasons else ""
    splits = f"{n['train']:,} train, {n['validation']:,} validation, {n['test']:,} test"
    return [
        ("rows", f"{n['rows_in']:,} in = {n['kept']:,} kept + {n['dropped']:,} dropped{why}"),
        ("split", splits),
    ]


def _top(counts: Facts, limit: int) -> list[tuple[int, str]]:
    """The largest counts, the rest in one."""
    ordered = sorted(((v, k) for k, v in counts.items()), key=lambda vk: (-vk[0], vk[1]))
    rest = sum(v for v, _ in ordered[limit:])
    return ordered[:limit] + ([(rest, "other")] if rest else [])


def _train(train: Facts | None) -> list[tuple[str, str]]:
    if train is None:
        return []
    parts = [f"{train['steps']:,} steps, loss {train['loss']:.3f}"]
    if train.get("validation_loss") is not None:
        parts.append(f"validation {train['validation_loss']:.3f}")
    parts.append(f"{train['tokens_per_s']:.0f} tokens/s")
    if train.get("peak_memory_bytes"):
        parts.append(f"peak memory {words.size(train['peak_memory_bytes'])}")
    return [("train", ", ".join(parts))]


def _quality(facts: Gathered) -> list[tuple[str, str]]:
    comparison = facts.stage("compare")
    if comparison is None:
        alone = [(s, facts.evaluation(s) or {}) for s in facts.subjects]
        return [(s, words.estimate(m, e["metrics"][m])) for s, e in alone for m in ("accuracy",) if m in e["metrics"]]
    metric = comparison["verdict"]["metric"]
    pair = comparison["metrics"][metric]
    before, after = (words.estimate(metric, pair[k]) for k in ("baseline", "candidate"))
    verdict = comparison["verdict"]
    n, p = pair["n"], words.p_value(pair["p_value"])
    return [
        (metric, f"{comparison['baseline']} {before} → {comparison['candidate']} {after}, n = {n:,}"),
        ("", f"{words.difference(pair['difference'], metric)}, {pair['test']} {p}"),
        ("verdict", f"{verdict['decision'].upper()} ({words.gate(comparison)}): {verdict['reason']}"),
    ]


def _small(facts: Gathered) -> list[tuple[str, str]]:
    compress, comparison = facts.stage("compress"), facts.stage("compare-compressed")
    if compress is None:
        return []
    sizes, kind = compress["sizes_bytes"], compress["quantisation"]
    before = ", ".join(f"{words.size(v)} {k}" for k, v in sizes.items() if k != kind)
    lines = [("size", f"{before} → {words.size(sizes[kind])} {kind}")]
    parity = compress["parity"]
    lines.append(("parity", f"{'ok' if parity['ok'] else 'FAILED'}: {parity['reason']}"))
    if comparison is not None:
        verdict = comparison["verdict"]
        pair = comparison["metrics"][verdict["metric"]]
        change = words.difference(pair["difference"], verdict["metric"])
        lines.append(("smaller", f"{change}; {words.gate(comparison)}: {verdict['decision'].upper()}"))
    return lines


def _speed(facts: Gathered) -> list[tuple[str, str]]:
    parts = []
    for subject in facts.subjects:
        found = (facts.evaluation(subject) or {}).get("metrics", {}).get("latency_p50_s")
        if found:
            parts.append(f"{subject} {words.estimate('latency_p50_s', found)}")
    lines = [("latency", "median, one at a time: " + ", ".join(parts))] if parts else []
    if serve := facts.stage("serve"):
        http = f"p50 {words.seconds(serve['p50_s'])}, p95 {words.seconds(serve['p95_s'])}"
        lines.append(
            ("HTTP", f"{http} with {serve['concurrency']} requests at a time, {serve['errors']} errors in {serve['n']}")
        )
    return lines
