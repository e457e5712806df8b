"""The flow of rows as a picture: one band that loses a ribbon at every step and ends in the splits."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from tuneloop.page import Html
from tuneloop.types import SPLITS

_HEIGHT, _GAP, _COLUMN, _LEFT, _RIGHT, _TOP = 150.0, 12.0, 118.0, 110.0, 190.0, 34.0
_COLOURS = {"train": "--accent", "validation": "--unsure", "test": "--good"}


def picture(steps: Sequence[Mapping[str, Any]], counts: Mapping[str, int]) -> Html:
    """An SVG.

    Args:
        steps: name, rows and dropped of each step, in order; those that drop nothing are left out.
        counts: rows_in, derived, and rows of each split.
    """
    losing = [step for step in steps if step["dropped"]]
    whole = max(counts["rows_in"] + counts.get("derived", 0), 1)
    scale = _HEIGHT / whole
    width = _LEFT + _COLUMN * max(len(losing), 1) + _RIGHT
    floor = _TOP + _HEIGHT + 40
    parts = [
        _text(0, _TOP + _HEIGHT / 2 - 6, "rows in", soft=True),
        _text(0, _TOP + _HEIGHT / 2 + 14, f"{counts['rows_in']:,}"),
    ]
    left, x = counts["rows_in"], _LEFT
    for step in losing:
        kept = left - step["dropped"]
        parts.append(_band(x, _COLUMN, kept * scale))
        parts.append(_ribbon(x, _TOP + kept * scale, step["dropped"] * scale, floor))
        share = f"{step['dropped']:,} ({step['dropped'] / max(step['rows'], 1):.1%})"
        parts += [
            _text(x + 24, floor + 18, step["step"], size=12),
            _text(x + 24, floor + 34, share, soft=True, size=12),
        ]
        left, x = kept, x + _COLUMN
    if not losing:
        parts.append(_band(x, _COLUMN, left * scale))
        x += _COLUMN
    parts += _ends(x, left, counts, scale)
    return Html(
        f'<figure><svg viewBox="0 0 {width:.0f} {floor + 46:.0f}" style="min-width:{width * 0.8:.0f}px;max-width:{width:.0f}px" '
        f'role="img" aria-label="Flow of rows">{"".join(parts)}</svg></figure>'
    )


def _band(x: float, length: float, height: float) -> str:
    return f'<rect x="{x:.1f}" y="{_TOP}" width="{length:.1f}" height="{max(height, 0.5):.1f}" fill="var(--accent)" opacity=".55"/>'


def _ribbon(x: float, y: float, height: float, floor: float) -> str:
    """What a step drops: leaves the band at its lower edge and falls to the floor."""
    thick = max(height, 1.0)
    wide = min(thick, 20.0)
    end = x + 30
    path = (
        f"M{x:.1f} {y:.1f} C{end - 6:.1f} {y:.1f} {end:.1f} {y + 20:.1f} {end:.1f} {floor:.1f} h{-wide:.1f} "
        f"C{end - wide:.1f} {y + thick + 16:.1f} {x + 8:.1f} {y + thick:.1f} {x:.1f} {y + thick:.1f} Z"
    )
    return f'<path d="{path}" fill="var(--bad)" opacity=".6"/>'


def _ends(x: float, left: int, counts: Mapping[str, int], scale: float) -> list[str]:
    """The splits, each a ribbon; rows that were made for training join from above."""
    parts, start, end = list[str](), _TOP, _TOP - 18
    derived = counts.get("derived", 0)
    for name in SPLITS:
        rows = counts[name] - (derived if name == "train" else 0)
        height, arrive = rows * scale, max(counts[name] * scale, 1.0)
        to = x + 60
        path = (
            f"M{x:.1f} {start:.1f} C{x + 30:.1f} {start:.1f} {to - 30:.1f} {end:.1f} {to:.1f} {end:.1f} v{arrive:.1f} "
            f"C{to - 30:.1f} {end + arrive:.1f} {x + 30:.1f} {start + height:.1f} {x:.1f} {start + height:.1f} Z"
        )
        parts.append(f'<path d="{path}" fill="var({_COLOURS[name]})" opacity=".7"/>')
        made = f", {derived:,} made" if derived and name == "train" else ""
        parts.append(_text(to + 8, end + arrive / 2 + 5, f"{name} {counts[name]:,}{made}"))
        start, end = start + height, end + arrive + _GAP
    return parts


def _text(x: float, y: float, words: str, *, soft: bool = False, size: int = 14) -> str:
    colour = "--soft" if soft else "--fg"
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="var({colour})">{html.escape(words)}</text>'
