"""Telephone numbers: by shape where the shape is unmistakable, by libphonenumber or by the words before them where not.

A number in international or national form is taken even where it is not assigned (the ranges that Ofcom and NANPA keep for
fiction stand in much test data). Sources: E.123 (notation), E.164 (lengths), MIIT's numbering plan (Chinese mobile and area
codes), Ofcom's and NANPA's plans, and the ``phonenumbers`` package.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from tuneloop.data.personal import context
from tuneloop.data.personal.piece import Found, Piece

_EXTENSION = r"(?: ?(?:x|ext\.?|extension|#) ?[0-9]{1,6})?"
_START = r"(?<![0-9])(?<![0-9][.])"
_END = r"(?![0-9]|\.[0-9])"

_CN_MOBILE = re.compile(
    rf"{_START}(?:\(?(?:\+|00)?86\)?[ \-]?)?1(?:3[0-9]|4[5-9]|5[0-35-9]|6[2567]|7[0-8]|8[0-9]|9[0-35-9])"
    rf"(?:[ \-]?[0-9]{{4}}[ \-]?[0-9]{{4}}|[0-9][ \-][0-9]{{3}}[ \-][0-9]{{4}}|[ \-][0-9]{{3}}[ \-][0-9]{{5}}){_END}"
)
_INTERNATIONAL = re.compile(rf"(?<![0-9A-Za-z+])\+[1-9](?:[ ().\-]{{0,2}}[0-9]){{6,14}}(?![0-9]){_EXTENSION}")
_CN_LANDLINE = re.compile(
    r"(?<![0-9A-Za-z])(?<![0-9][.\-])(?:\(0(?:10|2[0-57-9]|[3-9][0-9]{2})\) ?|0(?:10|2[0-57-9]|[3-9][0-9]{2}) ?- ?)"
    rf"[2-9][0-9]{{2,3}}[ \-]?[0-9]{{4}}(?:-[0-9]{{1,5}})?(?!-?[0-9]){_EXTENSION}"
)
_NATIONAL = re.compile(
    r"(?<![0-9A-Za-z+])(?<![0-9][.\-])(?:"
    r"(?:0044[ \-]?(?:\(0\)[ \-]?)?|0)7[0-9]{3}[ \-]?[0-9]{3}[ \-]?[0-9]{3}"  # GB mobile
    r"|\(?0(?:20\)?[ \-]?[0-9]{4}[ \-]?[0-9]{4}|1[0-9]{3}\)?[ \-]?[0-9]{3}[ \-]?[0-9]{3}|1[0-9]{2}\)?[ \-][0-9]{3}[ \-][0-9]{4})"
    r"|(?:(?:00)?1[ .\-]?)?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[.\-])[2-9][0-9]{2}[ .\-][0-9]{4}"  # North America
    rf"){_END}(?!-[0-9]){_EXTENSION}"
)
_TRUNK = re.compile(
    r"(?<![0-9A-Za-z+/])(?<![0-9][.\-])(?:\(0[1-9][0-9]{0,3}\) ?[0-9]{2,4}(?:[ \-]?[0-9]{2,4}){1,3}"
    r"|0[1-9][0-9]{0,3}([ .\-])[0-9]{2,4}(?:\1[0-9]{2,4}){1,4}|0[1-9][0-9]{1,3}[ \-/][0-9]{6,8})(?![0-9]|[.\-/][0-9])"
)
"""E.123: a national number begins with the trunk prefix 0 and is written in groups; 9 to 11 digits."""
_CANDIDATE = re.compile(r"(?<![0-9])(?<![0-9][.])(?:\(?[0-9])(?:[ ().\-]{0,2}[0-9]){6,19}(?![0-9])")
_DECIMAL = re.compile(r"[0-9]+\.[0-9]+")
_DATE = re.compile(
    r"(?<![0-9])(?:(?:19|20)[0-9]{2}([\-/.])[0-9]{1,2}\1[0-9]{1,2}(?![0-9])|[0-9]{1,2}([\-/.])[0-9]{1,2}\2(?:19|20)[0-9]{2}(?![0-9])"
    r"|(?<!-)(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])(?:[ T_\-]?[0-9]{2}:?[0-9]{2}(?::?[0-9]{2})?)?(?![0-9])"
    r"|[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?(?:\.[0-9]+)?)"
)


def phones(piece: Piece) -> Found:
    """In order of certainty."""
    if "CN" in piece.rules.regions:
        yield from _plain(piece, _CN_MOBILE)
        yield from _plain(piece, _CN_LANDLINE)
    yield from _international(piece)
    if piece.digits < 7:
        return
    for found in _DATE.finditer(piece.text, piece.at):
        piece.take(*found.span())
    yield from _plain(piece, _NATIONAL)
    for found in _TRUNK.finditer(piece.text, piece.at):
        if 9 <= _digits(found[0]) <= 11:
            yield found.span()
    yield from _candidates(piece)


def _plain(piece: Piece, shape: re.Pattern[str]) -> Found:
    """Matches of a shape; one without any separator must not follow the name of another kind of number."""
    for found in shape.finditer(piece.text, piece.at):
        bare = found[0].isdigit()
        if not (bare and _is_another(piece, found.start())):
            yield found.span()


def _international(piece: Piece) -> Found:
    if not piece.has("+"):
        return
    for found in _INTERNATIONAL.finditer(piece.text, piece.at):
        ends = dict.fromkeys([found.end(), *(found.start() + end for end in _group_ends(found[0]))])
        numbers = {end: piece.text[found.start() : end] for end in ends}
        valid = next((end for end, number in numbers.items() if _digits(number) >= 8 and _valid(number, "ZZ")), None)
        if valid is not None:
            yield found.start(), valid
        elif not found[0][1:].isdigit() or _digits(found[0]) >= 10:
            yield found.span()


def _candidates(piece: Piece) -> Found:
    """Digits in any grouping: a valid number of one of the regions, or the words before them speak of a telephone."""
    for found in _CANDIDATE.finditer(piece.text, piece.at):
        at = found.start()
        named = piece.says(context.PHONE, at)
        if _DECIMAL.fullmatch(found[0]) or (not named and _other(piece, at)):
            continue
        for end in _group_ends(found[0]):
            number = found[0][:end]
            if _digits(number) < 7:
                break
            if (named and _digits(number) <= 15) or any(_national(number, r) for r in piece.rules.regions):
                yield at, at + end
                break


def _is_another(piece: Piece, at: int) -> bool:
    """Whether the words before say that this is an amount or the number of an order."""
    return _other(piece, at) and not piece.says(context.PHONE, at)


def _other(piece: Piece, at: int) -> bool:
    return piece.says(context.OTHER_NUMBER, at) or piece.says(context.AMOUNT, at)


def _group_ends(text: str) -> Iterator[int]:
    """Ends of runs of digits, the last first."""
    yield from reversed([m.end() for m in re.finditer("[0-9]+", text)])


def _digits(text: str) -> int:
    return sum(c.isdigit() for c in text)


def _national(number: str, region: str) -> bool:
    """Valid in a region, and written as its people write it: with its trunk prefix, and in groups unless that is 0."""
    trunk = _trunk_prefix(region)
    if (number.isdigit() and trunk != "0") or not re.sub("[^0-9]", "", number).startswith(trunk):
        return False
    return _valid(number, region)


@lru_cache(maxsize=512)
def _trunk_prefix(region: str) -> str:
    from phonenumbers.phonemetadata import PhoneMetadata

    metadata = PhoneMetadata.metadata_for_region(region)
    return (metadata and metadata.national_prefix) or ""


@lru_cache(maxsize=4096)
def _valid(number: str, region: str) -> bool:
    import phonenumbers

    try:
        return bool(phonenumbers.is_valid_number(phonenumbers.parse(number, region)))
    except phonenumbers.NumberParseException:
        return False
