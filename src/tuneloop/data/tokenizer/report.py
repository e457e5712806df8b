"""The tokenizer report: one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneloop import page
from tuneloop.data import personal

_HEAD = [
    "",
    "unit",
    "tokens per unit",
    "bytes per token",
    "unknown tokens",
    "characters in one token",
    "comes back exactly",
]


def render(facts: Mapping[str, Any]) -> str:
    """The page.

    Args:
        facts: What ``tokenizer_report.json`` holds.
    """
    made, base = facts["tokenizer"], facts["compared_with"]
    body = [
        "<h1>Tokenizer report</h1>",
        page.paragraph(
            f"{facts['model']}, {made['vocab_size']:,} tokens, learned from {facts['texts']:,} texts "
            f"({facts['characters']:,} characters); measured on {facts['measured_on']}."
        ),
        *(f'<div class="warn">{page.text(note)}</div>' for note in facts["notes"]),
        _fits(made, base, facts["compared_name"]),
        _top("Most frequent tokens", made),
        _longest(facts["longest"]),
        _top(f"Most frequent tokens of {facts['compared_name']}", base) if base else "",
    ]
    return page.document("Tokenizer report", [str(part) for part in body if part])


def _fits(made: Mapping[str, Any], base: Mapping[str, Any] | None, name: str | None) -> page.Html:
    parts = []
    for k, fit in enumerate(made["fits"]):
        rows = [_row("this tokenizer", fit)]
        if base:
            rows.append(_row(str(name), base["fits"][k]))
        said = f"{fit['texts']:,} texts, {fit['characters']:,} characters"
        if base:
            change = fit["tokens"] / max(1, base["fits"][k]["tokens"]) - 1
            said += f": {abs(change):.1%} {'more' if change > 0 else 'fewer'} tokens than {name}"
        parts += [f"<h3>{page.text(fit['language'])}</h3>", page.paragraph(said, soft=True), page.table(_HEAD, rows)]
    hint = (
        "Fewer tokens per word or character means shorter rows, faster training and cheaper answers. A base model only "
        "understands its own tokenizer: a new one is for a model trained from the start, or needs new embeddings."
    )
    return page.section("Fit by language", *parts, page.paragraph(hint, soft=True))


def _row(name: str, fit: Mapping[str, Any]) -> list[object]:
    shares = [f"{fit[key]:.2%}" for key in ("unknown", "covered", "exact")]
    return [name, fit["unit"], round(fit["fertility"], 3), round(fit["bytes_per_token"], 3), *shares]


def _top(title: str, measured: Mapping[str, Any]) -> page.Html:
    used = f"{measured['used']:.1%} of the vocabulary occurs in the measured texts."
    shares = {_shown(token): round(100 * share, 3) for token, share in measured["top"]}
    return page.section(title, page.paragraph(used, soft=True), page.folded("the list", page.bars(shares, unit="%")))


def _longest(tokens: list[str]) -> page.Html:
    listed = page.Html(" · ".join(f"<code>{page.text(_shown(token))}</code>" for token in tokens))
    hint = "Boilerplate among them means that the text was not cleaned or repeats itself."
    return page.section("Longest tokens", page.paragraph(hint, soft=True), page.Html(f"<p>{listed}</p>"))


def _shown(token: str) -> str:
    """Visible, and without personal data."""
    return personal.mask(token).replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") or "(empty)"
