"""Scans and photos -> text by optical character recognition, a row a page. The models ship with rapidocr."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tuneloop.data.readers import ReadOptions, layout
from tuneloop.data.readers.layout import Box
from tuneloop.data.rows import READ, RawFile, RawRow
from tuneloop.errors import ResourceError, need

Quad = Sequence[Sequence[float]]
"""Four corners (x, y): top left, top right, bottom right, bottom left, as the text is read."""

VERTICAL_RATIO = 2.0
"""Text in a box this many times as high as wide runs from top to bottom."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """What stands on a page: blocks of lines in reading order, their mean confidence by characters, lines left out."""

    blocks: list[list[Box]]
    confidence: float
    unsure_lines: int

    @property
    def text(self) -> str:
        return "\n\n".join("\n".join(line.text for line in block) for block in self.blocks)


def read(path: Path, name: str, options: ReadOptions) -> RawFile:
    """Begin to read an image; a page that gives no text becomes a row with its reason.

    Raises:
        MissingExtraError: The ocr extra is not installed.
    """
    facts: dict[str, Any] = {"encoding": "image", "pages": 0, "unsure_lines": 0, "remarks": 0}
    engine()
    return RawFile.start(name, _pages(path, options, facts), None, facts)


def _pages(path: Path, options: ReadOptions, facts: dict[str, Any]) -> Iterator[RawRow]:
    pictures = _pictures(path, facts)
    while True:
        number = facts["pages"] + 1
        try:
            pixels_HWC = next(pictures, None)
        except Exception as error:  # damaged bytes make Pillow raise nearly anything
            why = " ".join(str(error).split())[:200]
            reason = f"damaged: the image cannot be decoded ({type(error).__name__}: {why})"
            yield RawRow(number, "", problem=(READ, reason), place=f"p{number}")
            return
        if pixels_HWC is None:
            return
        facts["pages"] = number
        yield _row(number, recognise(pixels_HWC, options.documents.ocr_min_confidence), facts)


def _pictures(path: Path, facts: dict[str, Any]) -> Iterator[Any]:
    """The pages of an image file as :func:`recognise` takes them, turned upright as their EXIF says."""
    pil = need("PIL.Image", "ocr")
    upright, asarray = need("PIL.ImageOps", "ocr").exif_transpose, need("numpy", "ocr").asarray
    with pil.open(path) as image:
        for index in range(getattr(image, "n_frames", 1)):
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                image.seek(index)
                pixels_HWC = asarray(_eight_bit(pil, upright(image)).convert("RGB"))[:, :, ::-1]
            facts["remarks"] += len(said)
            yield pixels_HWC


def _eight_bit(pil: Any, image: Any) -> Any:
    """What Pillow's own conversion gets wrong: sixteen bits become white, transparent paper becomes black."""
    if image.mode.startswith("I") or image.mode == "F":
        numpy = need("numpy", "ocr")
        values = numpy.asarray(image).astype("float64")
        return pil.fromarray((255 * values / max(values.max(), 1)).clip(0, 255).astype("uint8"))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return pil.alpha_composite(pil.new("RGBA", layer.size, "white"), layer)
    return image


def _row(number: int, seen: Recognised, facts: dict[str, Any]) -> RawRow:
    facts["unsure_lines"] += seen.unsure_lines
    if not seen.blocks:
        why = f"all {seen.unsure_lines} lines are below data.documents.ocr_min_confidence" if seen.unsure_lines else ""
        reason = f"no text: {why or 'nothing was recognised'}"
        return RawRow(number, "", problem=(READ, reason), place=f"p{number}")
    fields = {"text": seen.text, "page": number, "ocr_confidence": seen.confidence}
    return RawRow(number, seen.text, fields, place=f"p{number}")


def recognise(pixels_HWC: Any, min_confidence: float) -> Recognised:
    """Read one page.

    Args:
        pixels_HWC: uint8 array of height, width and the three channels blue, green, red.
        min_confidence: Lines below it are left out and counted.

    Raises:
        MissingExtraError: The ocr extra is not installed.
        ResourceError: The models of rapidocr are not where its wheel puts them.
    """
    found = engine()(need("numpy", "ocr").ascontiguousarray(pixels_HWC))
    if found.txts is None:
        return Recognised([], 0.0, 0)
    lines = list(zip(found.boxes.tolist(), found.txts, map(float, found.scores), strict=True))
    sure = [line for line in lines if line[2] >= min_confidence and line[1].strip()]
    letters = sum(len(text) for _, text, _ in sure)
    confidence = sum(score * len(text) for _, text, score in sure) / max(letters, 1)
    return Recognised(read_order([(q, t.strip()) for q, t, _ in sure]), round(confidence, 4), len(lines) - len(sure))


def read_order(found: Sequence[tuple[Quad, str]]) -> list[list[Box]]:
    """Quadrilaterals of text -> blocks of lines as they are read; a page of vertical text goes from right to left."""
    vertical = [(_height(q) > VERTICAL_RATIO * _width(q) and len(t) > 1, len(t)) for q, t in found]
    if sum(n for is_vertical, n in vertical if is_vertical) * 2 > sum(n for _, n in vertical):
        boxes = [_box(q, t, 0.0) for q, t in found]
        turned = [Box(b.top, -b.right, b.bottom, -b.left, b.text) for b in boxes]
        return [layout.rows(turned)]
    angle = _skew([q for (q, _), (is_vertical, _) in zip(found, vertical, strict=True) if not is_vertical])
    return layout.blocks([_box(q, t, angle) for q, t in found])


def _width(quad: Quad) -> float:
    return math.dist(quad[0], quad[1])


def _height(quad: Quad) -> float:
    return math.dist(quad[0], quad[3])


def _skew(quads: Sequence[Quad]) -> float:
    """The angle by which the page lies slanted, in radians: the median over the wider half of the boxes."""
    widest = sorted(quads, key=_width, reverse=True)[: (len(quads) + 1) // 2]
    angles = [math.atan2(q[1][1] - q[0][1], q[1][0] - q[0][0]) for q in widest]
    return statistics.median(angles) if angles else 0.0


def _box(quad: Quad, text: str, angle: float) -> Box:
    """The upright box around a quadrilateral after the page has been turned back by ``angle``."""
    cos, sin = math.cos(-angle), math.sin(-angle)
    xs = [x * cos - y * sin for x, y in quad]
    ys = [x * sin + y * cos for x, y in quad]
    return Box(min(xs), min(ys), max(xs), max(ys), text)


@cache
def engine() -> Any:
    """rapidocr with the models of its wheel, one a process; nothing is ever downloaded.

    Raises:
        MissingExtraError: The ocr extra is not installed.
        ResourceError: The models are not where the wheel puts them.
    """
    rapidocr = need("rapidocr", "ocr")
    need("onnxruntime", "ocr")
    folder = Path(str(rapidocr.__file__)).parent / "models"
    models = {part: sorted(folder.glob(f"*_{part.lower()}_*.onnx")) for part in ("Det", "Cls", "Rec")}
    for part, found in models.items():
        if len(found) != 1:
            raise ResourceError(
                f"{len(found)} models for {part.lower()} in rapidocr's wheel, expected one",
                where=str(folder),
                hint="pip install --force-reinstall rapidocr",
            )
    paths = {f"{part}.model_path": str(found[0]) for part, found in models.items()}
    # Weak lines are counted by us, so rapidocr must not drop them in silence.
    return rapidocr.RapidOCR(params={**paths, "Global.text_score": 0.0, "Global.log_level": "error"})
