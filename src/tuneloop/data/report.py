"""The data report: one HTML page a domain lead can read. Personal data is masked in every sample."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from tuneloop import page
from tuneloop.data import flow, personal
from tuneloop.data.summary import Facts
from tuneloop.types import SPLITS

_SAMPLE_CHARACTERS = 220
_CLASSES, _FILES = 120, 100
_LENGTHS = (10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120)


Show = Callable[..., str]
"""``masked`` with the regions of this report."""


def masked(text: str, limit: int = _SAMPLE_CHARACTERS, *, regions: Sequence[str] = personal.REGIONS) -> str:
    """One line for the page: personal data masked first, then cut, so that no half of it is left."""
    line = " ".join(personal.mask(text, regions=regions).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def named_rows(facts: Facts, total: Mapping[str, Any]) -> list[str]:
    """Ids of the rows that the page shows because another row names them."""
    partners = [row["partner"] for rows in total["drop_samples"].values() for row in rows if row["partner"]]
    return list(dict.fromkeys([*partners, *(cluster["id"] for cluster in facts["clusters"])]))


def render(
    facts: Facts,
    total: Mapping[str, Any],
    named: Mapping[str, str],
    regions: Sequence[str] = personal.REGIONS,
) -> str:
    """The page.

    Args:
        facts: The summary.
        total: The sum of the tallies of all parts.
        named: Raw text of ``named_rows``.
        regions: Countries whose national phone numbers are masked.
    """
    show = partial(masked, regions=regions)
    n = facts["counts"]
    share = n["kept"] / n["rows_in"] if n["rows_in"] else 0.0
    body = [
        "<h1>Data report</h1>",
        page.paragraph(
            f"{n['rows_in']:,} rows in, {n['kept']:,} kept ({share:.1%}), {n['dropped']:,} dropped. "
            f"Read as: {show(facts['detected'], 500)}.",
        ),
        page.cards({"rows in": n["rows_in"], "kept": n["kept"], **{s: n[s] for s in SPLITS}, "dropped": n["dropped"]}),
        *_warnings(show, facts["warnings"]),
        _flow(facts),
        _reasons(show, facts, total, named),
        _changes(show, total),
        _classes(show, facts["classes"]),
        _balance(show, facts["balance"]),
        _lengths(total["lengths"]),
        _languages(total["scripts"]),
        _personal(facts, total["personal_rows"]),
        _clusters(show, facts["clusters"], named),
        _files(facts["files"]),
    ]
    return page.document("Data report", [str(part) for part in body if part])


def _warnings(show: Show, warnings: Sequence[str]) -> list[str]:
    return [f'<div class="warn">{page.text(show(w, 500))}</div>' for w in warnings]


def _flow(facts: Facts) -> page.Html:
    """How many rows are left after each step, as one bar a step: kept, and dropped there."""
    whole = facts["counts"]["rows_in"]
    rows = [
        (s["step"], s["rows"], _bar(s["rows"] - s["dropped"], s["dropped"], whole), s["dropped"], s["changed"])
        for s in facts["steps"]
    ]
    return page.section(
        "Flow of rows",
        page.paragraph("Each step drops rows with a reason or changes their text; none is lost.", soft=True),
        flow.picture(facts["steps"], facts["counts"]),
        page.table(["step", "rows in", "left (blue) and dropped (red)", "dropped", "changed"], rows),
    )


def _bar(value: int, bad: int, whole: int, width_rem: int = 22) -> page.Html:
    """A bar of a fixed scale: ``whole`` is ``width_rem`` wide."""
    parts = [("bar", value), ("bar bad", bad)]
    inner = "".join(
        f'<div class="{kind}" style="width:{100 * n / max(whole, 1):.2f}%"></div>' for kind, n in parts if n
    )
    return page.Html(f'<div style="display:flex;width:{width_rem}rem;max-width:40vw;padding-top:.35rem">{inner}</div>')


def _place(show: Show, origin: str) -> page.Html:
    return page.Html(f'<code style="white-space:nowrap">{page.text(show(origin, 60))}</code>')


def _reasons(show: Show, facts: Facts, total: Mapping[str, Any], named: Mapping[str, str]) -> page.Html:
    if not facts["dropped"]:
        return page.section("Dropped rows", page.paragraph("No row was dropped."))
    parts = [page.bars({show(k, 60): v for k, v in facts["dropped"].items()}, unit="rows", bad=True)]
    for name, count in facts["dropped"].items():
        rows = [
            (
                _place(show, row["origin"]),
                show(row["raw"]),
                show(row["reason"].removeprefix(f"{name}: ")),
                show(named.get(row["partner"], "")),
            )
            for row in total["drop_samples"][name]
        ]
        head = ["row", "raw", "why", "the row it names"]
        if not any(row[3] for row in rows):
            head, rows = head[:3], [row[:3] for row in rows]  # type: ignore[misc]
        title = f"{show(name, 60)}: {len(rows):,} of {count:,} rows"
        parts.append(page.folded(title, page.table(head, rows)))
    hint = "The other rows: tuneloop data --explain ROW, or ledger.parquet."
    return page.section("Dropped rows", *parts, page.paragraph(hint, soft=True))


def _changes(show: Show, total: Mapping[str, Any]) -> page.Html | str:
    """Samples of what each step changed."""
    parts = []
    for step, rows in total["change_samples"].items():
        shown = [(_place(show, row["origin"]), show(row["before"]), show(row["after"])) for row in rows]
        title = f"{step}: {len(rows)} of {total['changed_messages'][step]:,} changed messages"
        parts.append(page.folded(title, page.table(["row", "before", "after"], shown)))
    return page.section("Changed text", *parts) if parts else ""


def _classes(show: Show, classes: Mapping[str, Mapping[str, int]]) -> page.Html | str:
    totals = {k: sum(classes[s].get(k, 0) for s in SPLITS) for s in SPLITS for k in classes[s]}
    if not totals:
        return ""
    whole = sum(totals.values())
    order = sorted(totals, key=lambda k: (-totals[k], k))
    rows = [
        (
            show(k, 60),
            *(classes[s].get(k, 0) for s in SPLITS),
            totals[k],
            _bar(totals[k], 0, totals[order[0]], 12),
        )
        for k in order[:_CLASSES]
    ]
    more = (
        [page.paragraph(f"and {len(order) - _CLASSES:,} smaller classes", soft=True)] if len(order) > _CLASSES else []
    )
    return page.section(
        "Classes",
        page.paragraph(
            f"{len(totals):,} classes; the largest holds {totals[order[0]] / whole:.1%} of the rows.", soft=True
        ),
        page.table(["class", *SPLITS, "all", ""], rows),
        *more,
    )


_VERDICT = {"pass": "good", "fail": "bad", "undecided": "unsure"}


def _balance(show: Show, balance: Sequence[Mapping[str, Any]]) -> page.Html | str:
    """Whether each split has the classes of the whole."""
    if not balance:
        return ""
    rows = [
        (
            show(found["field"], 40),
            found["split"],
            found["rows"],
            f"{found['kl_nats']:.3f}",
            page.Html(f'<b class="{_VERDICT[found["decision"]]}">{found["decision"]}</b>'),
            show(found["reason"], 600),
        )
        for found in balance
    ]
    return page.section(
        "Balance of the splits",
        page.paragraph(
            "Kullback-Leibler divergence of each split's classes from those of all rows, in nats.", soft=True
        ),
        page.table(["field", "split", "rows", "divergence", "verdict", "why"], rows),
    )


def _languages(scripts: Mapping[str, int]) -> page.Html | str:
    if not scripts:
        return ""
    order = dict(sorted(scripts.items(), key=lambda item: -item[1]))
    note = "By the letters of kept rows. The step language tells languages of one script apart."
    return page.section("Languages", page.bars(order, unit="rows"), page.paragraph(note, soft=True))


def _lengths(lengths: Mapping[str, Mapping[str, int]]) -> page.Html:
    """Characters of what is asked and what is answered, kept rows only."""
    edges = [0, *_LENGTHS]
    names = [f"{a:,}–{b - 1:,}" for a, b in zip(edges, _LENGTHS, strict=False)] + [f"{edges[-1]:,} and more"]
    parts = []
    for part in ("prompt", "answer"):
        sizes = sorted((int(size), rows) for size, rows in lengths[part].items())
        if not sizes:
            continue
        bins: Counter[int] = Counter()
        for size, rows in sizes:
            bins[bisect_right(_LENGTHS, size)] += rows
        shown = {names[i]: bins[i] for i in range(min(bins), max(bins) + 1)}
        middle = f"median {_quantile(sizes, 0.5):,}, 95 % up to {_quantile(sizes, 0.95):,}, longest {sizes[-1][0]:,}"
        parts += [f"<h3>{part}</h3>", page.paragraph(middle, soft=True), page.bars(shown, unit="rows")]
    return page.section("Lengths in characters", *parts)


def _quantile(sizes: Sequence[tuple[int, int]], share: float) -> int:
    """The smallest size that at least this share of the rows does not exceed."""
    wanted, seen = share * sum(rows for _, rows in sizes), 0
    for size, rows in sizes:
        seen += rows
        if seen >= wanted:
            return size
    return sizes[-1][0]


def _personal(facts: Facts, rows: int) -> page.Html:
    found = facts["personal_data"]
    note = (
        "Found by shape and checksum; names and addresses are not looked for. The ledger keeps the raw rows: "
        "keep it as private as the source."
    )
    if not found:
        off = not any(step["step"] == "redact" for step in facts["steps"])
        said = "The redact step is not in data.steps." if off else "None was found."
        return page.section("Personal data", page.paragraph(said), page.paragraph(note, soft=True))
    return page.section(
        "Personal data",
        page.paragraph(f"{sum(found.values()):,} places in {rows:,} rows were replaced by type tags."),
        page.bars(dict(found), unit="found"),
        page.paragraph(note, soft=True),
    )


def _clusters(show: Show, clusters: Sequence[Mapping[str, Any]], named: Mapping[str, str]) -> page.Html | str:
    if not clusters:
        return ""
    rows = [(c["rows"], page.Html(f"<code>{c['id']}</code>"), show(named.get(c["id"], ""))) for c in clusters]
    return page.section("Largest groups of duplicates", page.table(["rows", "kept row", "raw"], rows))


def _files(files: Sequence[Mapping[str, Any]]) -> page.Html:
    rows = [
        (
            f["file"],
            f["rows"],
            f.get("encoding", "–"),
            f["detected"],
            ", ".join(f["unused_columns"][:12]) or "–",
            f["split"] or "by ratio",
        )
        for f in files[:_FILES]
    ]
    more = [page.paragraph(f"and {len(files) - _FILES:,} more files", soft=True)] if len(files) > _FILES else []
    return page.section(
        "Sources", page.table(["file", "rows", "encoding", "read as", "columns not used", "split"], rows), *more
    )
