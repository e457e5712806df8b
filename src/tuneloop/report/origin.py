"""Where it all comes from, and what it does not show."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import tuneloop
from tuneloop import page
from tuneloop.page import Html
from tuneloop.report import words
from tuneloop.report.gather import Facts, Gathered

PACKAGES = ("torch", "transformers", "peft", "accelerate", "gguf", "xllamacpp", "polars", "sacrebleu")
FEW = 10


def limits(facts: Gathered) -> Html:
    """What the evidence does not show, in the terms of this run."""
    known = {s: e for s in facts.subjects if (e := facts.evaluation(s))}
    if not known:
        return Html("")
    subject, e = next((s, known[s]) for s in ("tuned", *known) if s in known)
    n, f = e["n"], e["facts"]
    said = [
        f"One test set of {n:,} questions from the same source as the training rows. Customers who ask differently, next "
        "month's topics and questions that belong to no class are not in it.",
        "The intervals say how much the numbers would move with other questions of the same kind. They do not hold the luck "
        "of one training run: another seed gives a slightly different model.",
        "Measured offline. Nothing here says what people do with the answers; a test with real traffic would.",
        "The base model was asked with the same prompts and no examples; a longer prompt might lift it.",
    ]
    if small := sorted(c for c, row in (e.get("per_class") or {}).items() if 0 < row["recall"]["n"] < FEW):
        said.append(
            f"{len(small)} classes have fewer than {FEW} questions, so little can be said about each of them: {_some(small)}."
        )
    if e.get("per_class"):
        said.append("The intervals of single classes are not adjusted for looking at many classes at once.")
    if f.get("available", n) > n:
        said.append(f"Only {n:,} of {f['available']:,} questions were asked ({f['sample']}).")
    said += [f"{count:,} rows of the split were not asked: {why}." for why, count in f.get("left_out", {}).items()]
    if not f.get("batch_invariant", True):
        said.append(
            "The engine may answer a question slightly differently beside others than alone; a repeat can differ by a few answers."
        )
    if f.get("cut"):
        said.append(f"{f['cut']:,} answers of the {words.who(subject)} were cut at {f['max_new_tokens']:,} tokens.")
    if any("latency_p50_s" in e["metrics"] for e in known.values()):
        said.append("Times are of this machine while it did whatever else it did.")
    return page.section(
        "What this does not show", Html("<ul>" + "".join(f"<li>{page.text(s)}</li>" for s in said) + "</ul>")
    )


def _some(names: list[str], limit: int = 12) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def provenance(facts: Gathered) -> Html:
    """Enough to do it again: model, licence, versions, commit, hashes, configuration and seeds of every stage."""
    rows = [["Base model", _base(facts)], ["Licence of the base model", facts.licence or "not stated in its folder"]]
    rows += [[f"The {words.who(s)}", _model(facts.evaluation(s) or {})] for s in facts.subjects if s != "base"]
    rows += [["tuneloop", tuneloop.__version__], ["Python", f"{platform.python_version()} on {platform.platform()}"]]
    rows += [["Packages, when this page was written", ", ".join(f"{k} {v}" for k, v in _versions().items())]]
    if commit := _commit(facts.root):
        rows.append(["Commit of the folder the run lies in", commit])
    stages = [
        [s, m.get("status", ""), m.get("started", ""), f"{m.get('duration_s', 0):,.1f} s", Html(f"<code>{page.text(str(m.get('key', ''))[:12])}</code>")]
        for s, m in facts.manifests.items()
    ]  # fmt: skip
    parts = [page.table(["", ""], rows), page.table(["stage", "status", "started (UTC)", "took", "key"], stages)]
    parts += [page.folded(f"{s}: configuration, inputs and outputs", _stage(facts, s)) for s in facts.manifests]
    return page.section("Where it comes from", *parts)


def _base(facts: Gathered) -> str:
    e = facts.evaluation("base")
    return _model(e) if e else "not evaluated"


def _model(e: Facts) -> str:
    s = e.get("subject", {})
    return f"{s.get('path', '?')}, {s.get('precision', '?')}, version {s.get('version') or '?'}"


def _versions() -> dict[str, str]:
    out = {}
    for package in PACKAGES:
        try:
            out[package] = version(package)
        except PackageNotFoundError:
            continue
    return out


def _commit(folder: Path) -> str | None:
    """The commit of the repository around the run, with a mark when files differ from it; None without git."""
    if shutil.which("git") is None:
        return None

    def git(*words_: str) -> str | None:
        done = subprocess.run(
            ["git", "-C", str(folder), *words_], capture_output=True, text=True, timeout=20, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None

    head = git("rev-parse", "HEAD")
    if head is None:
        return None
    changed = git("status", "--porcelain", "--untracked-files=no")
    return f"{head}, with changes that are not committed" if changed else head


def _stage(facts: Gathered, stage: str) -> Html:
    manifest = facts.manifests[stage]
    parts = [f"<pre>{page.text(facts.configs.get(stage, ''))}</pre>"]
    for title in ("inputs", "outputs"):
        found = manifest.get(title) or {}
        rows = [
            [k, Html(f"<code>{page.text(v['sha256'] if isinstance(v, dict) else v)}</code>")] for k, v in found.items()
        ]
        if rows:
            parts.append(page.table([title, "SHA-256"], rows))
    return Html("".join(parts))
