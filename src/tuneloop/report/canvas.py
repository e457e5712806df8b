"""matplotlib figure -> inline SVG that follows the page: its colours, its font, light and dark, the same bytes each time."""

from __future__ import annotations

import hashlib
import html
import io
import re
import unicodedata
import warnings
from collections.abc import Callable
from typing import Any

from tuneloop.errors import need
from tuneloop.page import Html

FG, SOFT, LINE, ACCENT, THIRD, BAD, CARD = (f"#0000{i:02x}" for i in range(1, 8))
"""Stand-ins: each is replaced by a colour of the page, so that the figure changes with the reader's theme."""

_CSS = {FG: "fg", SOFT: "soft", LINE: "line", ACCENT: "accent", THIRD: "third", BAD: "bad", CARD: "card"}
SUBJECT = {"base": SOFT, "tuned": ACCENT, "compressed": THIRD}
WIDTH_IN = 8.6
FONT_PT = 10.0
_STYLE = {
    "svg.fonttype": "none", "font.size": FONT_PT, "axes.edgecolor": LINE, "axes.labelcolor": SOFT, "text.color": FG,
    "xtick.color": LINE, "ytick.color": LINE, "xtick.labelcolor": SOFT, "ytick.labelcolor": FG, "grid.color": LINE,
    "axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none", "legend.frameon": False,
    "legend.labelcolor": FG, "lines.linewidth": 1.6, "axes.unicode_minus": True, "text.parse_math": False,
}  # fmt: skip

_EM = {"W": 1.0, "F": 1.0}


def width_em(text: str) -> float:
    """About how wide a browser draws a text: a Chinese character takes one em, others a little over half."""
    return sum(_EM.get(unicodedata.east_asian_width(c), 0.58) for c in text)


def short(text: str, limit_em: float = 18.0) -> str:
    """A label that fits; what is cut off is marked."""
    text = " ".join(text.split()) or "(empty)"
    if width_em(text) <= limit_em:
        return text
    while text and width_em(text) > limit_em - 1:
        text = text[:-1]
    return text.rstrip() + "…"


def inches(text_em: float, size_pt: float = FONT_PT) -> float:
    return text_em * size_pt / 72


def draw(height_in: float, paint: Callable[[Any], None], *, alt: str, caption: str, width_in: float = WIDTH_IN) -> Html:
    """One figure of the page.

    Args:
        height_in: Height; the page scales the figure to its width.
        paint: Draws into an empty matplotlib Figure.
        alt: What the figure shows, for those who cannot see it.
        caption: What the reader should know, below it.
        width_in: Width.
    """
    matplotlib: Any = need("matplotlib", "evaluate")
    figure_module: Any = need("matplotlib.figure", "evaluate")
    backend: Any = need("matplotlib.backends.backend_svg", "evaluate")
    salt = hashlib.sha256(caption.encode()).hexdigest()[:8]
    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}), warnings.catch_warnings():
        # Text stays text and the browser draws it; that matplotlib's own font lacks Chinese does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = figure_module.Figure(figsize=(width_in, height_in))
        figure.patch.set_alpha(0)
        backend.FigureCanvasSVG(figure)
        paint(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    limit = f"max-width:{1.15 * width_in:.2f}in"  # a small picture is not blown up to the width of the page
    svg = _themed(buffer.getvalue(), alt, salt).replace("<svg ", f'<svg style="{limit}" ', 1)
    return Html(f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>")


def _themed(svg: str, alt: str, salt: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.S)
    for stand_in, name in _CSS.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font: \1px system-ui,sans-serif;font-family:inherit", svg)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{salt}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{salt}-", svg)
    opening = f'<svg role="img" aria-label="{html.escape(alt)}" '
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*"([^>]*?)height="[^"]*"', r"<svg \1\2", svg, count=1)
    svg = re.sub(r'height="[\d.]+pt" ', "", svg, count=1)
    return re.sub(r"\n\s*", "\n", svg.replace("<svg ", opening, 1)).strip()
