"""DICOM -> a row a frame: the picture as a PNG with its window applied, the header as text without identity.

Identity is what the Basic Application Level Confidentiality Profile (DICOM PS3.15, Annex E, Table E.1-1) removes or
replaces. The header text goes the safer way round: only attributes listed here stand in it, and none of them is in that
table. So free text, dates, names, numbers, private attributes and unknown ones never come through.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuneloop.data.readers import ReadOptions
from tuneloop.data.rows import READ, RawFile, RawRow
from tuneloop.errors import need

SHOWN = (
    "Modality", "ImageType", "BodyPartExamined", "Laterality", "ImageLaterality", "ViewPosition", "PatientPosition",
    "Manufacturer", "ManufacturerModelName", "MagneticFieldStrength", "ScanningSequence", "SequenceVariant",
    "MRAcquisitionType", "RepetitionTime", "EchoTime", "InversionTime", "FlipAngle", "KVP", "ExposureTime",
    "XRayTubeCurrent", "SliceThickness", "SpacingBetweenSlices", "PixelSpacing", "PhotometricInterpretation",
    "NumberOfFrames", "Rows", "Columns",
)  # fmt: skip
"""Keywords of the attributes that stand in the text, in this order."""
_NO_TEXT = "no text: the header names none of the attributes that are kept"


def read(path: Path, name: str, options: ReadOptions) -> RawFile:
    """Begin to read. Frames that cannot be decoded become rows with their reason.

    ``fields`` hold ``text``, ``frame`` and ``image`` (relative to the folder that holds the media folder). An image whose
    header says that names are burned into it, or that shows a face, is not saved: ``image_withheld`` says why.

    Raises:
        MissingExtraError: The dicom extra is not installed.
    """
    facts: dict[str, Any] = {"encoding": "DICOM", "frames": 0, "withheld": 0, "burned_in_unknown": 0, "remarks": 0}
    for module in ("pydicom", "PIL"):
        need(module, "dicom")
    return RawFile.start(name, _rows(path, options.media_folder, facts), None, facts)


def _rows(path: Path, media: Path | None, facts: dict[str, Any]) -> Iterator[RawRow]:
    try:
        header, text = _header(path, facts)
    except Exception as error:  # damaged bytes make pydicom raise nearly anything, and its words may quote values
        yield _damaged(1, f"damaged: not a DICOM file that can be read ({type(error).__name__})")
        return
    withheld = _withheld(header)
    if "PixelData" not in header or media is None or withheld:
        yield _plain_row(header, text, withheld, facts)
        return
    if not text:
        yield _damaged(1, _NO_TEXT)
        return
    facts["burned_in_unknown"] += "BurnedInAnnotation" not in header
    pictures = _pictures(header, facts)
    while True:
        try:
            picture = next(pictures, None)
        except Exception as error:
            yield _damaged(facts["frames"] + 1, f"damaged: the pixels cannot be decoded ({_first(error)})")
            return
        if picture is None:
            return
        facts["frames"] += 1
        fields = {"text": text, "frame": facts["frames"], "image": save_png(picture, media)}
        yield RawRow(facts["frames"], text, fields, place=f"frame {facts['frames']}")


def _header(path: Path, facts: dict[str, Any]) -> tuple[Any, str]:
    """The data set and its text. What pydicom remarks may quote values, so it is counted and not shown."""
    pydicom = need("pydicom", "dicom")
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        header = pydicom.dcmread(path)
        text = header_text(header)
    facts["remarks"] += len(said)
    return header, text


def _pictures(header: Any, facts: dict[str, Any]) -> Iterator[Any]:
    """The frames as a viewer shows them."""
    frames = need("pydicom.pixels", "dicom").iter_pixels(header)
    while True:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            pixels = next(frames, None)
            picture = None if pixels is None else grey_or_colour(pixels, header)
        facts["remarks"] += len(said)
        if picture is None:
            return
        yield picture


def _first(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _damaged(number: int, reason: str) -> RawRow:
    return RawRow(number, "", problem=(READ, reason), place=f"frame {number}")


def _plain_row(header: Any, text: str, withheld: str, facts: dict[str, Any]) -> RawRow:
    """A row without an image."""
    if not text:
        return _damaged(1, _NO_TEXT)
    fields: dict[str, Any] = {"text": text, "frame": 1}
    if withheld:
        facts["withheld"] += 1
        fields["image_withheld"] = withheld
    return RawRow(1, text, fields, place="header")


def _withheld(header: Any) -> str:
    """Why the picture may show who it is of, by its own header (PS3.15 Annex E.3.1 and E.3.2)."""
    if str(header.get("BurnedInAnnotation", "")).upper() == "YES":
        return "burned-in annotation"
    if str(header.get("RecognizableVisualFeatures", "")).upper() == "YES":
        return "recognizable visual features"
    return ""


def header_text(header: Any) -> str:
    """``Body Part Examined: CHEST`` and so on, a line an attribute, without identity."""
    lines = []
    for keyword in SHOWN:
        if keyword not in header:
            continue
        element = header[keyword]
        value = element.value
        several = not isinstance(value, str) and hasattr(value, "__iter__")
        shown = "\\".join(str(v) for v in value) if several else str(value if value is not None else "")
        if shown.strip():
            lines.append(f"{element.name}: {' '.join(shown.split())}")
    return "\n".join(lines)


def grey_or_colour(pixels: Any, header: Any) -> Any:
    """Stored values -> what a viewer shows: uint8, height and width, and three channels where there is colour.

    Args:
        pixels: One frame as pydicom decodes it (YBR is RGB already).
        header: The data set with rescale, window and palette.
    """
    numpy = need("numpy", "dicom")
    pixel_tools = need("pydicom.pixels", "dicom")
    kind = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
    if kind == "PALETTE COLOR":
        pixels = pixel_tools.apply_color_lut(pixels, header)
        bits = int(header.RedPaletteColorLookupTableDescriptor[2])
        return (pixels >> max(bits - 8, 0)).astype(numpy.uint8)
    if pixels.ndim == 3:
        bits = int(header.BitsStored)
        return (pixels >> max(bits - 8, 0)).astype(numpy.uint8)
    values = pixel_tools.apply_modality_lut(pixels, header).astype(numpy.float64)
    shown = _windowed(values, header)
    return 255 - shown if kind == "MONOCHROME1" else shown


def _windowed(values: Any, header: Any) -> Any:
    """Values of the modality -> 0 to 255 by the VOI LUT, the first window, or the whole range where there is neither."""
    pixel_tools = need("pydicom.pixels", "dicom")
    if "VOILUTSequence" in header:
        table = pixel_tools.apply_voi(values.astype("int64"), header).astype("float64")
        return _scaled(table, 0.0, float(2 ** int(header.VOILUTSequence[0].LUTDescriptor[2]) - 1))
    if header.get("WindowCenter") is None or header.get("WindowWidth") is None:
        return _scaled(values, float(values.min()), float(values.max()))
    centre, width = _number(header.WindowCenter), _number(header.WindowWidth)
    return window(values, centre, width, str(header.get("VOILUTFunction", "LINEAR")))


def _number(value: Any) -> float:
    """The first of possibly several windows."""
    return float(value[0] if hasattr(value, "__iter__") and not isinstance(value, str) else value)


def window(values: Any, centre: float, width: float, function: str = "LINEAR") -> Any:
    """Grey values by window centre and width (DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3).

    Args:
        values: Array of any shape, in units of the modality (after rescale).
        centre: Window centre in these units; ``width`` likewise.
        function: ``LINEAR``, ``LINEAR_EXACT`` or ``SIGMOID``.

    Returns:
        uint8 array of the same shape, 0 black to 255 white.

    Raises:
        ValueError: The width is not positive, or the function is unknown.
    """
    numpy = need("numpy", "dicom")
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise ValueError(f"window width {width:g} is not positive")
    if function == "SIGMOID":
        # Beyond e^50 the value is black to the last bit, and exp must not overflow.
        share = 1 / (1 + numpy.exp(numpy.minimum(-4 * (values - centre) / width, 50)))
    elif function == "LINEAR_EXACT":
        share = (values - centre) / width + 0.5
    elif function == "LINEAR":
        edge = centre - 0.5
        share = (values - edge) / (width - 1) + 0.5 if width > 1 else (values > edge) * 1.0
    else:
        raise ValueError(f"unknown VOI LUT function {function!r}")
    return _scaled(share, 0.0, 1.0)


def _scaled(values: Any, low: float, high: float) -> Any:
    numpy = need("numpy", "dicom")
    share = (values - low) / (high - low) if high > low else numpy.zeros_like(values)
    return numpy.rint(numpy.clip(share, 0, 1) * 255).astype(numpy.uint8)


def save_png(pixels: Any, folder: Path) -> str:
    """Write an image under the hash of its pixels, so that its name tells nothing; equal images are one file."""
    image = need("PIL.Image", "dicom").fromarray(pixels)
    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    target = folder / f"{digest[:24]}.png"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(f".{os.getpid()}.part")
        image.save(part, "PNG")
        part.replace(target)
    return f"{folder.name}/{target.name}"
