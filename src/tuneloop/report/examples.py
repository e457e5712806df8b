"""A few real questions: where the tuned model wins, where it loses, where both are wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tuneloop import page
from tuneloop.page import Html
from tuneloop.report import words
from tuneloop.report.gather import Facts, Gathered

SHOWN = 4
CHARACTERS = 600


def section(facts: Gathered) -> str:
    """Examples of the comparison base against tuned; without it there is nothing to show."""
    comparison = facts.stage("compare")
    if comparison is None:
        return ""
    before, after = (facts.items.get(comparison[k], {}) for k in ("baseline", "candidate"))
    metric = comparison["verdict"]["metric"]

    def score(items: object, i: str) -> float:
        return float(items[i]["scores"][metric])  # type: ignore[index]

    def gain(i: str) -> float:
        return score(after, i) - score(before, i)

    known = [i for i in after if i in before and metric in after[i]["scores"] and metric in before[i]["scores"]]
    won = [i for i in comparison["won"] if i in set(known)]
    lost = [i for i in comparison["lost"] if i in set(known)]
    binary = comparison["metrics"][metric]["binary"]
    both = [i for i in known if binary and score(after, i) == score(before, i) == 0.0]
    groups = [
        ("Questions it now gets right" if binary else "Where it gained most", sorted(won, key=lambda i: -gain(i)), len(won)),
        ("Questions it got right before and now gets wrong" if binary else "Where it lost most", sorted(lost, key=gain), len(lost)),
        ("Questions both get wrong", both, len(both)),
    ]  # fmt: skip

    def card(i: str) -> Html:
        return _card(i, facts, comparison, before[i], after[i])

    parts = [_group(title, ids, total, card) for title, ids, total in groups if total]
    if not lost:
        parts.append(page.paragraph("There is no question that it does worse than before."))
    note = "The texts are the cleaned records: what the data stage redacted is redacted here too."
    return page.section("Examples", page.paragraph(note, soft=True), *parts)


def _group(title: str, ids: Sequence[str], total: int, card: Callable[[str], Html]) -> Html:
    first = ids if len(ids) <= SHOWN else [ids[k * len(ids) // SHOWN] for k in range(SHOWN)]
    of = (
        f"{len(first)} of {total:,}, spread evenly"
        if total > len(first)
        else f"all {total:,}"
        if total > 1
        else "the one"
    )
    return Html(f'<h3>{page.text(title)} <span class="soft">({of})</span></h3>' + "".join(map(card, first)))


def _card(i: str, facts: Gathered, comparison: Facts, before: Facts, after: Facts) -> Html:
    turns = [(role, text) for role, text in facts.prompts.get(i, []) if role != "system"]
    lines = [(_role(role), _cut(text)) for role, text in turns] or [("question", "(its text is not in this run)")]
    lines.append(("right answer", _cut(str(before["reference"]))))
    lines += [(words.who(comparison[k]), _cut(str(row["answer"]) or "(nothing)"))
              for k, row in (("baseline", before), ("candidate", after))]  # fmt: skip
    origin = f"{facts.origins[i]}, " if facts.origins.get(i) else ""
    body = "".join(f"<dt>{page.text(k)}</dt><dd>{page.text(v)}</dd>" for k, v in lines)
    return Html(
        f'<div class="example"><dl>{body}</dl><span class="soft">{page.text(origin)}<code>{page.text(i)}</code></span></div>'
    )


def _role(role: str) -> str:
    return {"user": "question", "assistant": "earlier answer", "tool": "tool"}.get(role, role)


def _cut(text: str) -> str:
    if len(text) <= CHARACTERS:
        return text
    return f"{text[:CHARACTERS].rstrip()}… ({len(text) - CHARACTERS:,} more characters)"
