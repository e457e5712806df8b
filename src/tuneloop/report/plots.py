"""The four pictures: loss curve, forest of classes, confusion, size against quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuneloop.page import Html
from tuneloop.report import words
from tuneloop.report.canvas import (
    ACCENT,
    BAD,
    CARD,
    FG,
    FONT_PT,
    LINE,
    SOFT,
    SUBJECT,
    THIRD,
    WIDTH_IN,
    draw,
    inches,
    short,
    width_em,
)

Facts = Mapping[str, Any]
SHOWN_CLASSES = 48
SHOWN_CONFUSED = 24


def loss_curve(curve: Sequence[Facts]) -> Html | None:
    """Training loss step by step, smoothed where there are many, and validation loss."""
    train = [(c["step"], c["loss"]) for c in curve if isinstance(c.get("loss"), int | float)]
    held = [(c["step"], c["validation_loss"]) for c in curve if isinstance(c.get("validation_loss"), int | float)]
    if not train and not held:
        return None
    smooth = _smooth([y for _, y in train]) if len(train) > 40 else None

    def paint(figure: Any) -> None:
        ax = figure.subplots()
        if train:
            x, y = zip(*train, strict=True)
            raw = {"alpha": 0.35, "linewidth": 1.0} if smooth else {"label": "training"}
            ax.plot(x, y, color=ACCENT, **raw)
            if smooth:
                ax.plot(x, smooth, color=ACCENT, label="training, smoothed")
        if held:
            x, y = zip(*held, strict=True)
            ax.plot(x, y, color=THIRD, marker="o", markersize=4, label="validation")
        ax.set_xlabel("optimiser step")
        ax.set_ylabel("loss, nats a token")
        ax.set_ylim(bottom=0)
        ax.grid(axis="y", linewidth=0.6)
        ax.legend(loc="upper right")
        figure.subplots_adjust(left=0.085, right=0.985, top=0.97, bottom=0.16)

    last = f" It ends at {held[-1][1]:.3f} on the validation rows." if held else ""
    caption = f"Loss on the answers' tokens while training, {len(train):,} steps.{last}"
    return draw(3.1, paint, alt="Line chart of training and validation loss", caption=caption)


def _smooth(values: Sequence[float]) -> list[float]:
    """Mean over a window around each step: it does not lag behind as an exponential average does."""
    half = max(2, len(values) // 40)
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(w) / len(w) for w in windows]


def forest(evaluations: Mapping[str, Facts]) -> Html | None:
    """Share of each class's questions that were answered right, with Wilson intervals, one row a class."""
    classes = {s: e["per_class"] for s, e in evaluations.items() if e.get("per_class") and s != "compressed"}
    last = list(classes)[-1] if classes else None
    if last is None:
        return None
    recall = {s: {c: row["recall"] for c, row in p.items() if row["recall"]["n"]} for s, p in classes.items()}
    ordered = sorted(recall[last], key=lambda c: (recall[last][c]["value"], -recall[last][c]["n"], c))
    shown = ordered[:SHOWN_CLASSES]
    labels = {c: short(c) for c in shown}
    left = inches(max(width_em(f"{labels[c]} (999)") for c in shown)) + 0.35
    height = 0.75 + 0.27 * len(shown)

    def paint(figure: Any) -> None:
        ax = figure.subplots()
        step = 0.3 / max(1, len(recall) - 1) if len(recall) > 1 else 0.0
        for i, (subject, found) in enumerate(recall.items()):
            at = [y + (i - (len(recall) - 1) / 2) * step for y in range(len(shown))]
            known = [(found[c], y) for c, y in zip(shown, at, strict=True) if c in found]
            for interval, y in known:
                ax.plot([interval["low"], interval["high"]], [y, y], color=SUBJECT[subject], linewidth=1.4)
            ax.plot([v["value"] for v, _ in known], [y for _, y in known], "o", color=SUBJECT[subject],
                    markersize=4.5, label=words.who(subject))  # fmt: skip
        ax.set_yticks(range(len(shown)), [f"{labels[c]} ({recall[last][c]['n']})" for c in shown])
        ax.set_ylim(len(shown) - 0.4, -0.6)
        _share_axis(ax)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        bottom = 0.42 / height
        figure.subplots_adjust(left=left / WIDTH_IN, right=0.98, top=1 - 0.32 / height, bottom=bottom)
        ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0.1)

    rest = f" The {len(shown)} hardest of {len(ordered)} classes; all of them stand in the table." * (shown != ordered)
    caption = (
        "Share of each class's questions that were answered right, with its 95 % interval; hardest class first. The number "
        f"behind the name is how many questions the class has: few questions, wide interval.{rest}"
    )
    return draw(
        height, paint, alt="Forest plot: share of right answers by class, base and tuned model", caption=caption
    )


def _share_axis(ax: Any) -> None:
    ax.set_xlim(-0.015, 1.015)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    ax.grid(axis="x", linewidth=0.6)


def confusion(matrix: Facts) -> Html | None:
    """Right class against class answered; rows are shares of the class's questions."""
    if not matrix or not matrix["labels"]:
        return None
    rows, columns, counts, note = _worst(matrix)
    side = 0.31 if len(rows) > 12 else 0.42
    names = [short(c, 14) for c in columns]
    left = inches(max(width_em(short(r, 16)) for r in rows)) + 0.3
    top = inches(max(width_em(c) for c in names)) * 0.75 + 0.25
    over = max(inches(width_em(c)) * 0.75 - side * (len(names) - j) for j, c in enumerate(names))
    width = max(left + side * len(columns) + max(over, 0.0) + 0.25, 4.2)
    height = top + side * len(rows) + 0.15

    def paint(figure: Any) -> None:
        from matplotlib.patches import Rectangle

        ax = figure.add_axes((left / width, 0.1 / height, side * len(columns) / width, side * len(rows) / height))
        for i, row in enumerate(counts):
            total = sum(row) or 1
            for j, n in enumerate(row):
                share, hit = n / total, rows[i] == columns[j]
                if n:
                    fill = ACCENT if hit else BAD
                    ax.add_patch(Rectangle((j, i), 1, 1, facecolor=fill, alpha=0.12 + 0.88 * share, linewidth=0))
                    ink = CARD if share > 0.55 else FG
                    ax.text(
                        j + 0.5, i + 0.5, str(n), ha="center", va="center_baseline", fontsize=FONT_PT - 2, color=ink
                    )
        ax.set_xlim(0, len(columns))
        ax.set_ylim(len(rows), 0)
        ax.hlines(range(len(rows) + 1), 0, len(columns), color=LINE, linewidth=0.5)
        ax.vlines(range(len(columns) + 1), 0, len(rows), color=LINE, linewidth=0.5)
        ax.set_yticks([i + 0.5 for i in range(len(rows))], [short(r, 16) for r in rows])
        ax.set_xticks([])
        for j, text in enumerate(names):
            ax.text(j + 0.35, -0.2, text, rotation=45, ha="left", va="bottom", rotation_mode="anchor", color=FG)
        ax.tick_params(length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)

    caption = (
        "Each row is a class as it should be, each column what the model answered; the number counts questions, the shade is "
        f"the share of the row. Blue is right, red is wrong.{note}"
    )
    return draw(height, paint, alt="Confusion matrix", caption=caption, width_in=width)


def _worst(matrix: Facts) -> tuple[list[str], list[str], list[list[int]], str]:
    """Drop classes without questions or answers; of many, keep those with the most confusion."""
    labels, columns, counts = matrix["labels"], matrix["columns"], matrix["counts"]
    asked = [sum(row) for row in counts]
    given = [sum(row[j] for row in counts) for j in range(len(columns))]
    wrong = [asked[i] + given[i] - 2 * counts[i][i] for i in range(len(labels))]
    alive = [i for i in range(len(labels)) if asked[i] or given[i]]
    keep = sorted(sorted(alive, key=lambda i: (-wrong[i], labels[i]))[:SHOWN_CONFUSED])
    across = keep + ([len(labels)] if given[-1] else [])
    note = ""
    if len(keep) < len(alive):
        note = (
            f" The {len(keep)} classes with the most confusion, of {len(alive)}; answers outside of them are not drawn."
        )
    return [labels[i] for i in keep], [columns[j] for j in across], [[counts[i][j] for j in across] for i in keep], note


def size_quality(points: Mapping[str, tuple[float, Facts]], metric: str) -> Html | None:
    """Size of the weights against quality, with intervals.

    Args:
        points: Subject -> bytes of its weights and the interval of its quality.
        metric: What quality is.
    """
    if len(points) < 2:
        return None
    share = metric in words.SHARES

    def paint(figure: Any) -> None:
        ax = figure.subplots()
        top = max(size for size, _ in points.values()) / 1e6
        places = {s: (x / 1e6 > top / 2, q["value"]) for s, (x, q) in points.items()}
        label_y = {
            s: y for side in (True, False)
            for s, y in _apart({s: v for s, (r, v) in places.items() if r is side}, 0.09 if share else 0.0).items()
        }  # fmt: skip
        for subject, (n_bytes, q) in points.items():
            x, color = n_bytes / 1e6, SUBJECT[subject]
            ax.plot([x, x], [q["low"], q["high"]], color=color, linewidth=2)
            ax.plot([x], [q["value"]], "o", color=color, markersize=8)
            label = f"{subject}  {words.size(n_bytes)}, {words.value(metric, q['value'])}"
            ax.annotate(label, (x, label_y[subject]), xytext=(-10 if x > top / 2 else 10, 0), textcoords="offset points",
                        ha="right" if x > top / 2 else "left", va="center")  # fmt: skip
        ax.set_xlim(0, top * 1.06)
        ax.set_xlabel("weights, MB")
        if share:
            ax.set_ylim(-0.03, 1.03)
            ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        ax.tick_params(axis="y", labelcolor=SOFT)
        ax.grid(linewidth=0.6)
        figure.subplots_adjust(left=0.085, right=0.985, top=0.97, bottom=0.17)

    caption = f"Size of the weights against {words.name(metric).lower()} on the same questions, with 95 % intervals."
    return draw(3.0, paint, alt="Scatter plot of model size and quality", caption=caption)


def _apart(places: Mapping[str, float], gap: float) -> dict[str, float]:
    """Where labels go so that none covers another: pushed down from the highest, at least ``gap`` apart."""
    out: dict[str, float] = {}
    ceiling = float("inf")
    for name in sorted(places, key=lambda n: -places[n]):
        out[name] = ceiling = min(places[name], ceiling - gap)
    return out
