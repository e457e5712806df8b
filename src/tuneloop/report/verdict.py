"""The decision in plain words, and the big numbers."""

from __future__ import annotations

from tuneloop import page
from tuneloop.page import Html
from tuneloop.report import words
from tuneloop.report.gather import Facts, Gathered

HEADLINE = {
    ("better", "pass"): "The {c} is better than the {b}.",
    ("better", "fail"): "The {c} does not reach what was asked of it.",
    ("better", "undecided"): "The evidence does not settle whether the {c} is better.",
    ("not worse", "pass"): "The {c} may replace the {b}.",
    ("not worse", "fail"): "The {c} loses too much.",
    ("not worse", "undecided"): "The evidence does not settle whether the {c} is as good.",
}
NEXT = {
    "pass": "",
    "fail": " Do not put it into service; read the lost questions below first.",
    "undecided": " Before it goes into service, evaluate on more questions.",
}


def boxes(facts: Gathered) -> Html:
    """One box a gate."""
    found = [c for c in (facts.stage("compare"), facts.stage("compare-compressed")) if c]
    if not found:
        return Html(
            '<div class="verdict undecided"><b>not judged</b> — no two models were compared on the same questions, so '
            "nothing here says that one is better. <code>tuneloop compare</code> does it.</div>"
        )
    return Html("\n".join(box(c, facts) for c in found))


def box(comparison: Facts, facts: Gathered) -> Html:
    """Headline, counts, difference, test, gate: what a domain lead signs."""
    verdict = comparison["verdict"]
    decision, metric = verdict["decision"], verdict["metric"]
    b, c = (words.who(comparison[k]) for k in ("baseline", "candidate"))
    headline = HEADLINE[comparison["question"], decision].format(b=b, c=c)
    pair = comparison["metrics"][metric]
    parts = [_counts(pair, metric, b, c), _difference(comparison, pair, metric), _gate(comparison)]
    if metric == "accuracy" and comparison["question"] == "better":
        parts.append(_wording(facts, comparison))
    parity = (facts.stage("compress") or {}).get("parity")
    if comparison["question"] == "not worse" and parity and not parity["ok"]:
        parts.append(
            f"Its parity with the trained model is broken ({parity['reason']}), so it is not served all the same."
        )
    body = "".join(f"<p>{page.text(p)}</p>" for p in parts if p)
    return Html(
        f'<div class="verdict {decision}"><b>{decision}</b> — <strong>{page.text(headline)}</strong>'
        f"{page.text(NEXT[decision])}{body}</div>"
    )


def _counts(pair: Facts, metric: str, b: str, c: str) -> str:
    if pair["binary"]:
        return (
            f"The {c} answers {words.right(pair['candidate'])} questions right ({words.percent(pair['candidate']['value'])}), "
            f"the {b} {words.right(pair['baseline'])} ({words.percent(pair['baseline']['value'])})."
        )
    return (
        f"{words.name(metric)} of the {c}: {words.estimate(metric, pair['candidate'])}, "
        f"of the {b}: {words.estimate(metric, pair['baseline'])}; n = {pair['n']:,} questions."
    )


def _difference(comparison: Facts, pair: Facts, metric: str) -> str:
    confidence = f"{100 * pair['difference']['confidence']:g} %"
    holm = ""
    if len(comparison["metrics"]) > 1:
        holm = f", {words.p_value(comparison['p_holm'][metric])} after Holm over {len(comparison['metrics'])} metrics"
    test = f"{pair['test']}, {words.p_value(pair['p_value'])}{holm}"
    if comparison["question"] == "not worse":
        p = comparison["verdict"]["p_value"]
        test = "" if p is None else f"test against a loss of {words.margin(comparison)} or more: {words.p_value(p)}"
    return (
        f"Difference {words.difference(pair['difference'], metric)} ({confidence} interval{'; ' if test else ''}{test}). "
        f"Question by question: {pair['wins']:,} won, {pair['losses']:,} lost, "
        f"{pair['ties']:,} the same."
    )


def _gate(comparison: Facts) -> str:
    verdict = comparison["verdict"]
    alpha = verdict["detail"].get("alpha", 0.05)
    return (
        f"The gate asked for “{words.gate(comparison)}” at α = {alpha:g} with at least {verdict['detail'].get('min_n', 1)} "
        f"questions and {words.GAIN[verdict['decision']]}: {verdict['reason']}."
    )


def _wording(facts: Gathered, comparison: Facts) -> str:
    """How much of the gain is only that the model learned to answer in the expected words."""
    asked = facts.evaluation(comparison["baseline"]) or {}
    base = asked.get("metrics", {}).get("accuracy_lenient")
    tuned = (facts.evaluation(comparison["candidate"]) or {}).get("metrics", {}).get("accuracy_lenient")
    if not base or not tuned:
        return ""
    cut, budget = asked["facts"]["cut"], asked["facts"]["max_new_tokens"]
    short = f" Of the first, {cut:,} answers were cut at {budget} tokens, before they may have named it." if cut else ""
    return (
        "An answer counts as right only word for word. Counting every answer that names the right class, and no other, "
        f"anywhere in it: {words.percent(base['value'])} before, {words.percent(tuned['value'])} after.{short}"
    )


def cards(facts: Gathered) -> Html:
    """The big numbers of the run; each names what it is."""
    out: dict[str, object] = {}
    for subject in facts.subjects:
        found = (facts.evaluation(subject) or {})["metrics"]
        metric = next((m for m in ("accuracy", "rouge_l") if m in found), None)
        if metric:
            q = found[metric]
            label = f"{subject}: {words.name(metric)}, 95 % interval {words.bounds(metric, q)}, n = {q['n']:,}"
            out[label] = words.value(metric, q["value"])
    if compress := facts.stage("compress"):
        sizes, kind = compress["sizes_bytes"], compress["quantisation"]
        largest = max(sizes, key=sizes.__getitem__)
        out[f"weights as {kind}; {words.size(sizes[largest])} as {largest}"] = words.size(sizes[kind])
        out["parity of the smaller model with the trained one"] = "holds" if compress["parity"]["ok"] else "broken"
    if data := facts.stage("data"):
        n = data["counts"]
        out[f"of {n['rows_in']:,} rows kept"] = f"{n['kept']:,}"
    if serve := facts.stage("serve"):
        label = f"median answer over HTTP, {serve['concurrency']} at a time, n = {serve['n']:,}"
        out[label] = words.seconds(serve["p50_s"])
    return page.cards(out) if out else Html("")
