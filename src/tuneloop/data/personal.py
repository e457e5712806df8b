"""Personal data in text, each type with the checksum or the shape that its issuer defines.

Sources: GB 11643-1999 (身份证, ISO 7064 MOD 11-2); ISO/IEC 7812-1 annex B (Luhn); ISO 13616 (IBAN, mod 97 of ISO 7064);
phone numbers by libphonenumber, and by shape where a number is written in international or national form but is not
assigned (the ranges that Ofcom and NANPA keep for fiction stand in much test data).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from typing import NamedTuple

REGIONS = ("GB", "US", "CN")
"""Where numbers without a country code may come from."""


class Span(NamedTuple):
    """Characters [start, end) are of this type."""

    type: str
    start: int
    end: int


_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+\-])[A-Za-z0-9](?:[A-Za-z0-9._%+\-]{0,62}[A-Za-z0-9_%+\-])?@(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}"
)
_ID_CARD = re.compile(r"(?<![0-9])[1-9][0-9]{5}(?:18|19|20)[0-9]{2}[01][0-9][0-3][0-9][0-9]{3}[0-9Xx](?![0-9A-Za-z])")
_DIGIT_GROUPS = re.compile(r"(?<![0-9])[0-9](?:[ \-]?[0-9]){11,29}(?![0-9])")
_IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?:[ \-]?[A-Z0-9]{4}){2,7}(?:[ \-]?[A-Z0-9]{1,3})?(?![A-Za-z0-9])", re.IGNORECASE
)
_CN_MOBILE = re.compile(r"(?<![0-9])(?:(?:\+|00)?86[ \-]?)?1[3-9][0-9](?:[ \-]?[0-9]{4}){2}(?![0-9])")
_SHAPES = re.compile(
    r"(?<![0-9A-Za-z+])(?:"
    r"(?:(?:\+|00)44[ \-]?(?:\(0\)[ \-]?)?|0)7[0-9]{3}[ \-]?[0-9]{3}[ \-]?[0-9]{3}"  # GB mobile
    r"|0(?:20[ \-]?[0-9]{4}[ \-]?[0-9]{4}|1[0-9]{3}[ \-]?[0-9]{6}|1[0-9]{2}[ \-][0-9]{3}[ \-][0-9]{4})"  # GB landline
    r"|(?:\+?1[ .\-]?)?(?:\([2-9][0-9]{2}\)[ ]?|[2-9][0-9]{2}[.\-])[2-9][0-9]{2}[ .\-][0-9]{4}"  # North America
    r")(?![0-9])"
)
_INTERNATIONAL = re.compile(r"(?<![0-9A-Za-z])\+[1-9](?:[ ().\-]{0,2}[0-9]){6,14}(?![0-9])")
_MAYBE_PHONE = re.compile(r"[0-9](?:[ ()./\-]{0,2}[0-9]){6}")

_CARD_ISSUERS = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})|(?:5[1-5]|2[2-7])[0-9]{14}|3[47][0-9]{13}|3(?:0[0-5]|[689][0-9])[0-9]{11}"
    r"|35[0-9]{14}|6(?:011|5[0-9]{2}|4[4-9][0-9])[0-9]{12}|62[0-9]{14,17}|(?:50|5[6-8]|6[037])[0-9]{10,17}"
)
"""First digits and lengths of Visa, Mastercard, American Express, Diners, JCB, Discover, UnionPay, Maestro."""

IBAN_LENGTHS = {
    code: int(length)
    for code, length in re.findall(
        r"([A-Z]{2})(\d\d)",
        "AD24AE23AL28AT20AZ28BA20BE16BG22BH22BR29BY28CH21CR22CY28CZ24DE22DK18DO28EE20EG29ES24FI18FO18FR27GB22GE22GI23"
        "GL18GR27GT28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20LB28LC32LI21LT20LU20LV21MC27MD24ME22MK19MR27MT31MU30NL18"
        "NO15PK24PL28PS29PT25QA29RO24RS22SA24SC31SE24SI19SK24SM27ST25SV28TL23TN24TR26UA29VA22VG24XK20",
    )
}
"""ISO 13616 registry: country -> length."""


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1: every second digit from the right is doubled, the digit sums add up to a multiple of ten."""
    doubled = (int(d) * (1 + i % 2) for i, d in enumerate(reversed(digits)))
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def id_card(number: str) -> bool:
    """GB 11643-1999: a real date of birth, and 17 digits weighted by 2^(17-i) mod 11 give the check character."""
    try:
        date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    total = sum(int(d) * pow(2, 17 - i, 11) for i, d in enumerate(number[:17]))
    return "10X98765432"[total % 11] == number[17].upper()


def iban(compact: str) -> bool:
    """ISO 13616: the length of the country, and 1 modulo 97 with the first four characters moved to the end."""
    compact = compact.upper()
    if IBAN_LENGTHS.get(compact[:2]) != len(compact):
        return False
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def _emails(text: str, regions: Sequence[str]) -> Iterator[Span]:
    if "@" in text:
        yield from (Span("EMAIL", *m.span()) for m in _EMAIL.finditer(text))


def _id_cards(text: str, regions: Sequence[str]) -> Iterator[Span]:
    yield from (Span("ID_CARD", *m.span()) for m in _ID_CARD.finditer(text) if id_card(m[0]))


def _ibans(text: str, regions: Sequence[str]) -> Iterator[Span]:
    for found in _IBAN.finditer(text):
        wanted = IBAN_LENGTHS.get(found[0][:2].upper(), 0)
        used = [i for i, c in enumerate(found[0]) if c.isalnum()]
        # Words may follow a number written in groups: the country says where it ends.
        if wanted and len(used) >= wanted and iban("".join(found[0][i] for i in used[:wanted])):
            yield Span("IBAN", found.start(), found.start() + used[wanted - 1] + 1)


def _cards(text: str, regions: Sequence[str]) -> Iterator[Span]:
    for found in _DIGIT_GROUPS.finditer(text):
        groups = [m.span() for m in re.finditer(r"[0-9]+", found[0])]
        windows = [(a, b) for a in range(len(groups)) for b in range(len(groups), a, -1)]
        for a, b in sorted(windows, key=lambda w: w[0] - w[1]):  # the longest run of whole groups first
            start, end = groups[a][0], groups[b - 1][1]
            digits = re.sub("[^0-9]", "", found[0][start:end])
            if 12 <= len(digits) <= 19 and _CARD_ISSUERS.fullmatch(digits) and luhn(digits):
                yield Span("CARD", found.start() + start, found.start() + end)
                break


def _phones(text: str, regions: Sequence[str]) -> Iterator[Span]:
    if not _MAYBE_PHONE.search(text):
        return
    import phonenumbers

    shapes = [_INTERNATIONAL, _SHAPES, *([_CN_MOBILE] if "CN" in regions else [])]
    for shape in shapes:
        yield from (Span("PHONE", *m.span()) for m in shape.finditer(text))
    for region in regions:
        matcher = phonenumbers.PhoneNumberMatcher(text, region, leniency=phonenumbers.Leniency.VALID)
        yield from (Span("PHONE", m.start, m.end) for m in matcher)


_DETECTORS: dict[str, Callable[[str, Sequence[str]], Iterator[Span]]] = {
    "EMAIL": _emails,
    "ID_CARD": _id_cards,
    "IBAN": _ibans,
    "CARD": _cards,
    "PHONE": _phones,
}
"""In order of certainty: where two overlap, the earlier one holds."""
TYPES = tuple(_DETECTORS)


def find(text: str, types: Sequence[str] = TYPES, regions: Sequence[str] = REGIONS) -> list[Span]:
    """Personal data in a text, by position, without overlaps."""
    found: list[Span] = []
    if "@" not in text and not _MAYBE_PHONE.search(text) and not re.search("[0-9]{2}", text):
        return found
    for kind in types:
        for span in _DETECTORS[kind](text, regions):
            if all(span.end <= other.start or span.start >= other.end for other in found):
                found.append(span)
    return sorted(found, key=lambda s: s.start)


def mask(text: str, spans: Sequence[Span] | None = None, *, regions: Sequence[str] = REGIONS) -> str:
    """The text with each span (default: all that is found) replaced by its type tag, e.g. ``[EMAIL]``."""
    out, at = [], 0
    for span in find(text, regions=regions) if spans is None else spans:
        out += [text[at : span.start], f"[{span.type}]"]
        at = span.end
    return "".join([*out, text[at:]])
