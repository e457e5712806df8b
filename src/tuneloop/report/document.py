"""The page: the verdict first, then what it rests on, then what it does not show."""

from __future__ import annotations

from tuneloop import page
from tuneloop.report import evidence, examples, origin, plots, verdict, words
from tuneloop.report.gather import Gathered


def render(facts: Gathered, name: str) -> str:
    """The whole report as one HTML file."""
    body = [
        f"<h1>{page.text(name)}</h1>",
        page.paragraph("Is the tuned model better, is the smaller one as good, and what does that rest on?", soft=True),
        verdict.boxes(facts),
        _missing(facts),
        verdict.cards(facts),
        _quality(facts),
        _smaller(facts),
        examples.section(facts),
        _training(facts),
        evidence.data(facts),
        evidence.serving(facts),
        origin.limits(facts),
        origin.provenance(facts),
    ]
    return page.document(f"{name}: report", [part for part in body if part])


def _missing(facts: Gathered) -> str:
    if not facts.missing:
        return ""
    return page.Html(
        f'<div class="warn">Not run, so nothing is said about it: {page.text(", ".join(facts.missing))}.</div>'
    )


def _quality(facts: Gathered) -> str:
    evaluations = {s: e for s in facts.subjects if (e := facts.evaluation(s))}
    if not evaluations:
        return ""
    parts: list[str] = [evidence.metrics(evaluations)]
    if figure := plots.forest(evaluations):
        parts += ["<h3>Class by class</h3>", figure, evidence.classes(evaluations)]
    last = "tuned" if "tuned" in evaluations else list(evaluations)[-1]
    if figure := plots.confusion(evaluations[last].get("confusion") or {}):
        parts += [f"<h3>What the {words.who(last)} mixes up</h3>", figure]
        parts.append(evidence.confused(evaluations[last]["confusion"]))
    return page.section("Quality on questions it has never seen", *parts)


def _smaller(facts: Gathered) -> str:
    compress = facts.stage("compress")
    if compress is None:
        return ""
    points, metric = evidence.sizes(facts)
    figure = plots.size_quality(points, metric) if metric else None
    return page.section("The smaller model", *([figure] if figure else []), evidence.parity(compress))


def _training(facts: Gathered) -> str:
    figure = plots.loss_curve(facts.curve)
    parts = [p for p in (figure, evidence.training(facts)) if p]
    return page.section("Training", *parts) if parts else ""
