"""The shell of every HTML report: one self-contained file, no script, no network, readable in light, dark and print.

Text given to these functions is escaped here; pieces that are HTML already are wrapped in ``Html``.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

_CSS = """
:root{--bg:#fcfcfb;--fg:#1d2126;--soft:#5d6672;--line:#dfe2e6;--card:#fff;--accent:#2456a6;--good:#1c7c46;--bad:#b3261e;--unsure:#8a6100;--third:#b0530b}
@media(prefers-color-scheme:dark){:root{--bg:#15181c;--fg:#e7e9ec;--soft:#9aa4b0;--line:#323840;--card:#1c2026;--accent:#86b1f5;--good:#6cc492;--bad:#f28b82;--unsure:#e3b85a;--third:#f0a060}}
*{box-sizing:border-box}body{margin:0 auto;max-width:62rem;padding:2rem 1.2rem 4rem;background:var(--bg);color:var(--fg);
font:16px/1.55 system-ui,-apple-system,"Segoe UI","Noto Sans","PingFang SC","Microsoft YaHei","Noto Sans CJK SC",sans-serif}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .3rem}h2{font-size:1.2rem;margin:2.6rem 0 .6rem;padding-top:1.1rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.4rem 0 .4rem}p{max-width:46rem}.soft,figcaption{color:var(--soft);font-size:.88rem}
table{border-collapse:collapse;width:100%;margin:.6rem 0 1rem;font-size:.92rem;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto}th,td{text-align:left;padding:.32rem .9rem .32rem 0;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
th{color:var(--soft);font-weight:600;white-space:nowrap}td.n,th.n{text-align:right;white-space:nowrap}
code,pre{font-family:ui-monospace,"DejaVu Sans Mono",Consolas,monospace;font-size:.86em}pre{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:.7rem .9rem;overflow-x:auto;white-space:pre-wrap}
.verdict{border-left:6px solid var(--unsure);background:var(--card);padding:1rem 1.2rem;margin:1.2rem 0;border-radius:0 8px 8px 0;font-size:1.08rem}
.verdict p{margin:.6rem 0 0;max-width:none}.verdict.pass{border-color:var(--good)}.verdict.fail{border-color:var(--bad)}.verdict b:first-child{text-transform:uppercase;letter-spacing:.04em}
.pass>b:first-child,.good{color:var(--good)}.fail>b:first-child,.bad{color:var(--bad)}.undecided>b:first-child,.unsure{color:var(--unsure)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(12.5rem,1fr));gap:.8rem;margin:1rem 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.7rem .9rem}.card b{display:block;font-size:1.35rem;line-height:1.25;overflow-wrap:anywhere}.card span{color:var(--soft);font-size:.85rem}
figure{margin:1rem 0;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.6rem;overflow-x:auto}figure svg{width:100%;min-width:34rem;height:auto;display:block;margin:0 auto}figcaption{padding:.3rem .3rem 0}
.bar{background:var(--accent);height:.75rem;border-radius:2px;min-width:1px}.bar.bad{background:var(--bad)}details{margin:.5rem 0}summary{cursor:pointer;color:var(--accent)}
.warn{border-left:4px solid var(--unsure);padding:.2rem .8rem;margin:.5rem 0;background:var(--card)}
.example{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.6rem .9rem;margin:.7rem 0}.example dl{display:grid;grid-template-columns:minmax(5.5rem,auto) 1fr;gap:.15rem .9rem;margin:0}.example dt{color:var(--soft)}.example dd{margin:0;overflow-wrap:anywhere;white-space:pre-wrap}
@media print{body{max-width:none;padding:0}details{display:block}}
"""


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> Html:
    """Escape a value; ``Html`` passes as it is, floats are rounded to four digits."""
    if isinstance(value, Html):
        return value
    return Html(
        html.escape(f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value))
    )


def document(title: str, body: Iterable[str], *, lang: str = "en") -> str:
    """A whole page."""
    return (
        f'<!doctype html>\n<html lang="{lang}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_CSS}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Html:
    """A table; a column is right-aligned where every cell of it is a number."""
    rows = [list(row) for row in rows]
    numeric = [bool(rows) and all(isinstance(r[i], int | float) for r in rows) for i in range(len(head))]
    mark = [' class="n"' if n else "" for n in numeric]
    out = "".join(f"<th{m}>{html.escape(h)}</th>" for h, m in zip(head, mark, strict=True))
    lines = "".join(
        "<tr>" + "".join(f"<td{m}>{text(c)}</td>" for c, m in zip(r, mark, strict=True)) + "</tr>\n" for r in rows
    )
    return Html(f'<div class="scroll"><table><thead><tr>{out}</tr></thead><tbody>\n{lines}</tbody></table></div>')


def bars(counts: Mapping[str, float], *, unit: str = "", bad: bool = False) -> Html:
    """A table of horizontal bars, in the order given."""
    top = max(counts.values(), default=0) or 1
    kind = "bar bad" if bad else "bar"
    rows = [
        (
            name,
            Html(f'<div class="{kind}" style="width:{100 * value / top:.1f}%"></div>'),
            Html(f"{text(value)} {html.escape(unit)}"),
        )
        for name, value in counts.items()
    ]
    cells = "".join(
        f'<tr><td>{text(n)}</td><td style="width:55%">{b}</td><td class="n">{v}</td></tr>\n' for n, b, v in rows
    )
    return Html(f'<div class="scroll"><table><tbody>\n{cells}</tbody></table></div>')


def cards(facts: Mapping[str, object]) -> Html:
    """Big numbers side by side: label -> value."""
    return Html(
        '<div class="cards">'
        + "".join(f'<div class="card"><b>{text(v)}</b><span>{text(k)}</span></div>' for k, v in facts.items())
        + "</div>"
    )


def section(title: str, *parts: str) -> Html:
    return Html(f"<section><h2>{html.escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>")


def paragraph(value: object, *, soft: bool = False) -> Html:
    return Html(f"<p{' class=soft' if soft else ''}>{text(value)}</p>")


def folded(title: str, inner: str) -> Html:
    return Html(f"<details><summary>{html.escape(title)}</summary>{inner}</details>")
