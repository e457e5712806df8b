"""Tables: metrics, classes, confusions, sizes and parity, data ledger, training, serving."""

from __future__ import annotations

from collections.abc import Mapping

from tuneloop import page
from tuneloop.page import Html
from tuneloop.report import words
from tuneloop.report.gather import Facts, Gathered

NOTHING = "–"


def metrics(evaluations: Mapping[str, Facts]) -> Html:
    """One row a metric, one column a model; what was left out, and why."""
    found = {s: e["metrics"] for s, e in evaluations.items()}
    every = dict.fromkeys(m for known in (*words.NAMES, *(m for f in found.values() for m in f)) for m in [known])
    rows = [
        [words.name(m), *(words.estimate(m, f[m]) if m in f else NOTHING for f in found.values()), _n(m, found)]
        for m in every
        if any(m in f for f in found.values())
    ]
    skipped = {m: why for e in evaluations.values() for m, why in e["skipped"].items()}
    notes = [page.paragraph(f"{words.name(m)} was left out: {why}.", soft=True) for m, why in skipped.items()]
    return Html(page.table(["", *evaluations, "n"], rows) + _asked(evaluations) + "".join(notes))


def _n(metric: str, found: Mapping[str, Facts]) -> int | Html:
    counts = sorted({f[metric]["n"] for f in found.values() if metric in f})
    if len(counts) == 1:
        return int(counts[0])
    return Html(f'<span style="white-space:nowrap">{" / ".join(f"{n:,}" for n in counts)}</span>')


def _asked(evaluations: Mapping[str, Facts]) -> Html:
    lines = []
    for subject, e in evaluations.items():
        f = e["facts"]
        parts = [
            f"{subject}: {e['n']:,} questions of the {f['split']} split ({f['sample']})",
            f"engine {f['engine']}",
            f"at most {f['max_new_tokens']:,} tokens an answer, {f['cut']:,} answers were cut there",
        ]
        if f.get("unparseable") is not None:
            parts.append(f"{f['unparseable']:,} answers were no known class")
        if f.get("failed"):
            parts.append(f"{f['failed']:,} questions failed and count as wrong")
        lines.append(page.paragraph("; ".join(parts) + ".", soft=True))
    return Html("".join(lines))


def classes(evaluations: Mapping[str, Facts]) -> Html:
    """Precision, recall and F1 of every class, folded away."""
    parts = []
    for subject, e in evaluations.items():
        if per_class := e.get("per_class"):
            rows = [
                [c, row["recall"]["n"], *(words.estimate("accuracy", row[k]) for k in ("precision", "recall", "f1"))]
                for c, row in sorted(per_class.items())
            ]
            table = page.table(["class", "questions", "precision", "recall", "F1"], rows)
            parts.append(page.folded(f"All classes of the {words.who(subject)}, with intervals", table))
    return Html("".join(parts))


def confused(matrix: Facts, limit: int = 10) -> Html:
    """The most frequent wrong answers."""
    labels, columns, counts = matrix["labels"], matrix["columns"], matrix["counts"]
    pairs = sorted(
        ((n, labels[i], columns[j], sum(row)) for i, row in enumerate(counts) for j, n in enumerate(row)
         if n and columns[j] != labels[i]),
        key=lambda p: (-p[0], p[1], p[2]),
    )  # fmt: skip
    if not pairs:
        return page.paragraph("It mixes up nothing: every answer was right.")
    rows = [[right, given, n, f"of {total:,}"] for n, right, given, total in pairs[:limit]]
    more = f" The {limit} most frequent of {len(pairs):,} kinds of error." if len(pairs) > limit else ""
    head = ["should be", "answered", "questions", "of that class"]
    return Html(page.table(head, rows) + (page.paragraph(more.strip(), soft=True) if more else ""))


def sizes(facts: Gathered) -> tuple[dict[str, tuple[float, Facts]], str]:
    """Subject -> bytes and quality, for the picture; and the metric."""
    stage = facts.stage("compress")
    found = {s: (facts.evaluation(s) or {})["metrics"] for s in facts.subjects}
    metric = next((m for m in ("accuracy", "rouge_l") if found and all(m in f for f in found.values())), "")
    if stage is None or not metric:
        return {}, ""
    table, kind = stage["sizes_bytes"], stage["quantisation"]
    out = {}
    for subject, f in found.items():
        precision = (facts.evaluation(subject) or {})["subject"].get("precision", "")
        full = table.get(precision) or table.get("16 bit" if "16" in precision else "float32")
        n_bytes = table[kind] if subject == "compressed" else full
        if n_bytes:
            out[subject] = (float(n_bytes), f[metric])
    return out, metric


def parity(compress: Facts) -> Html:
    """Is it still the same model? Each line with what was measured."""
    p = compress["parity"]
    rows = [
        ["Token ids of every prompt", "the same" if p["token_ids_equal"] else "DIFFERENT"],
        ["Mean KL divergence from the original", f"{p['mean_kl']:.2g} nats a token"],
        ["99th percentile and largest KL", f"{p['p99_kl']:.2g} and {p['max_kl']:.2g} nats"],
        ["Same most likely token", f"{words.percent(p['greedy_agreement'])} of {p['positions']:,} positions"],
        ["Perplexity before and after", f"{p['perplexity_before']:.3f} and {p['perplexity_after']:.3f}"],
        ["Prompts", f"{p['prompts']:,}"],
        *([f"Weights, {k}", words.size(v)] for k, v in compress["sizes_bytes"].items()),
    ]
    state, word = ("good", "Parity holds") if p["ok"] else ("bad", "Parity is broken; such a bundle is not served")
    head = Html(f'<p><strong class="{state}">{word}</strong>: {page.text(p["reason"])}.</p>')
    return Html("<h3>Is it still the same model?</h3>" + head + page.table(["checked", "found"], rows))


def data(facts: Gathered) -> Html:
    """Every row is accounted for: in = kept + dropped, each reason counted."""
    found = facts.stage("data")
    if found is None:
        return Html("")
    n = found["counts"]
    adds_up = n["rows_in"] == n["kept"] + n["dropped"] and n["dropped"] == sum(found["dropped"].values())
    parts: list[str] = [
        page.paragraph(
            f"{n['rows_in']:,} rows in = {n['kept']:,} kept + {n['dropped']:,} dropped. "
            f"Kept: {n['train']:,} to train, {n['validation']:,} to watch the training, {n['test']:,} to judge it. "
            f"Read as: {found['detected']}."
        )
    ]
    if not adds_up:
        parts.append('<div class="warn bad">The counts do not add up. Do not trust this data stage.</div>')
    parts += [Html(f'<div class="warn">{page.text(w)}</div>') for w in found.get("warnings", [])]
    if found["dropped"]:
        parts += ["<h3>Why rows were dropped</h3>", page.bars(found["dropped"], unit="rows")]
    if steps := found.get("steps"):
        rows = [[s["step"], s["rows"], s["dropped"], s["changed"]] for s in steps]
        parts.append(page.folded("Step by step", page.table(["step", "rows in", "dropped", "changed"], rows)))
    if personal := found.get("personal_data"):
        parts.append(page.folded("Personal data that was replaced", page.bars(personal, unit="found")))
    if files := found.get("files"):
        keys = list(dict.fromkeys(k for f in files for k in f))
        rows = [[NOTHING if f.get(k) is None else str(f[k]) for k in keys] for f in files]
        parts.append(page.folded("Files", page.table(keys, rows)))
    if (facts.root / "data" / "report.html").exists():
        parts.append('<p><a href="data/report.html">The data report</a> shows samples of every reason.</p>')
    return page.section("The rows: what came in, what was left out and why", *parts)


def training(facts: Gathered) -> Html:
    train = facts.stage("train")
    if train is None:
        return Html("")
    share = train["trained_parameters"] / train["parameters"] if train.get("parameters") else 0.0
    rows = [
        ["Rows trained on", f"{train['rows']:,}"],
        ["Steps", f"{train['steps']:,}"],
        ["Tokens", f"{train['tokens']:,}"],
        ["Loss of the last step; validation", f"{train['loss']:.4f}; {_or_nothing(train.get('validation_loss'))}"],
        ["Speed", f"{train['tokens_per_s']:,.0f} tokens a second"],
        ["Parameters trained", f"{train['trained_parameters']:,} of {train['parameters']:,} ({share:.2%})"],
        ["Peak memory of the process", words.size(train["peak_memory_bytes"])],
        *([f"Rows left out: {why}", f"{n:,}"] for why, n in train.get("left_out", {}).items()),
        *([f"Parts left out of these rows: {why}", f"{n:,}"] for why, n in train.get("parts_left_out", {}).items()),
    ]
    said = [f"Step {w['step']:,}: {w['what']}. {w['advice']}" for w in train.get("warnings", [])]
    warned = [Html(f'<div class="warn">{page.text(w)}</div>') for w in said]
    return Html("".join([*warned, page.table(["", ""], rows)]))


def _or_nothing(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4f}"


def serving(facts: Gathered) -> Html:
    """What was measured over HTTP, on this machine."""
    s = facts.stage("serve")
    if s is None:
        return Html("")
    rows = [
        ["Engine", s["engine"]],
        ["Requests, at a time", f"{s['n']:,}, {s['concurrency']}"],
        ["Errors", f"{s['errors']:,}"],
        ["Median and 95th percentile", f"{words.seconds(s['p50_s'])} and {words.seconds(s['p95_s'])}"],
        ["First token of a streamed answer", words.seconds(s["first_token_s"])],
        ["Tokens a second, all requests together", f"{s['tokens_per_s']:.1f}"],
        ["Streamed answer equals the whole one", "yes" if s["streamed_equals_whole"] else "NO"],
    ]
    if s.get("matches") is not None:
        rows.append(["Answers equal to those of the evaluation", f"{s['matches']:,} of {s['n']:,}"])
    return page.section("Served over HTTP", page.table(["checked", "found"], rows))
