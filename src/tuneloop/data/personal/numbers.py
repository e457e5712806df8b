"""Numbers with a checksum or a fixed shape: cards, accounts, identity papers, plates.

Sources: the standards named in ``checksums``; GA 36-2018 (plates: a province, a letter, five characters with at most two
letters, or six where the car runs on new energy; neither I nor O); passports as issued by CN, HK, MO, TW, US and GB.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tuneloop.data.personal import context
from tuneloop.data.personal.checksums import (
    IBAN_LENGTHS,
    card,
    credit_code,
    iban,
    id_card,
    old_id_card,
    social_security,
)
from tuneloop.data.personal.piece import Found, Piece
from tuneloop.data.personal.segments import PLATE_ENDS, PLATE_PROVINCES

_ID_CARD = re.compile(
    r"(?<![0-9])[1-9][0-9]{5}[ \-]?(?:18|19|20)[0-9]{2}[01][0-9][0-3][0-9][ \-]?[0-9]{3}[0-9Xx](?![0-9A-Za-z])"
)
_OLD_ID_CARD = re.compile(r"(?<![0-9])(?<![0-9][.\-])[1-9][0-9]{7}[01][0-9][0-3][0-9]{4}(?![0-9A-Za-z]|[.\-][0-9])")
_DIGIT_GROUPS = re.compile(r"(?<![0-9])(?<![0-9][.])[0-9](?:[ \-]?[0-9]){11,79}(?![0-9A-Za-z])")
_GROUPING = re.compile("(?:[0-9]+|(?:4 ){2,4}[1-4]|4 6 [45]|6 1[0-3])")
_MAESTRO = re.compile("(?:50|5[6-8]|6[037])(?:[0-9]{10,13}|[0-9]{15,17})")
"""First digits that many other numbers have, in a length that no other scheme uses."""
_IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?:[ \-]?[A-Z0-9]{4}){2,7}(?:[ \-]?[A-Z0-9]{1,3})?(?![A-Za-z0-9])", re.IGNORECASE
)
_CREDIT_CODE = re.compile(
    r"(?<![0-9A-Za-z])[0-9AMNY][0-9A-HJ-NPQRTUWXY][0-9]{6}[0-9A-HJ-NPQRTUWXY]{10}(?![0-9A-Za-z])", re.IGNORECASE
)
_PASSPORT = re.compile(
    r"(?<![A-Za-z0-9])(?:[A-Z][0-9]{8}|[A-Z]{2}[0-9]{7}|[HM][0-9]{10}|[0-9]{8,10})(?![A-Za-z0-9])", re.IGNORECASE
)
_SOCIAL_SECURITY = re.compile(r"(?<![0-9\-])([0-9]{3})([ \-]?)([0-9]{2})\2([0-9]{4})(?![0-9]|-[0-9])")
_PLATE = re.compile(
    rf"[{PLATE_PROVINCES}][A-HJ-NP-Z][ ·\-]?([A-HJ-NP-Z0-9]{{5,6}}|[A-HJ-NP-Z0-9]{{4}}[{PLATE_ENDS}])(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_NEW_ENERGY = re.compile("[DABCEFGHJK][A-HJ-NP-Z0-9][0-9]{4}|[0-9]{5}[DABCEFGHJK]", re.IGNORECASE)


def id_cards(piece: Piece) -> Found:
    for found in _ID_CARD.finditer(piece.text, piece.at):
        if id_card(re.sub("[ -]", "", found[0])):
            yield found.span()
    for found in _OLD_ID_CARD.finditer(piece.text, piece.at):
        named = piece.says(context.ID_CARD, found.start())
        # Fifteen digits without a check are also a card's, an order's and an IMEI's length.
        other = card(found[0]) or piece.says(context.OTHER_NUMBER, found.start())
        if old_id_card(found[0]) and (named or not other):
            yield found.span()


def ibans(piece: Piece) -> Found:
    for found in _IBAN.finditer(piece.text, piece.at):
        wanted = IBAN_LENGTHS.get(found[0][:2].upper(), 0)
        used = [i for i, c in enumerate(found[0]) if c.isalnum()]
        # Words may follow a number written in groups: the country says where it ends.
        if wanted and len(used) >= wanted and iban("".join(found[0][i] for i in used[:wanted])):
            yield found.start(), found.start() + used[wanted - 1] + 1


def credit_codes(piece: Piece) -> Found:
    for found in _CREDIT_CODE.finditer(piece.text, piece.at):
        other = found[0].isdigit() and piece.says(context.OTHER_NUMBER, found.start())
        if credit_code(found[0]) and not other:
            yield found.span()


def cards(piece: Piece) -> Found:
    for found in _DIGIT_GROUPS.finditer(piece.text, piece.at):
        for start, end, groups in _runs(found[0]):
            digits = re.sub("[^0-9]", "", found[0][start:end])
            if card(digits) and _is_card(piece, found.start() + start, digits, groups):
                yield found.start() + start, found.start() + end
                break


def _runs(text: str) -> Iterator[tuple[int, int, int]]:
    """(start, end, how many groups) of each run of whole groups that is written as card numbers are, the longest first."""
    if text.isdigit():
        yield 0, len(text), 1
        return
    groups = [m.span() for m in re.finditer("[0-9]+", text)]
    windows = [(a, b) for a in range(len(groups)) for b in range(min(len(groups), a + 5), a, -1)]
    for a, b in sorted(windows, key=lambda w: w[0] - w[1]):
        if _GROUPING.fullmatch(" ".join(str(j - i) for i, j in groups[a:b])):
            yield groups[a][0], groups[b - 1][1], b - a


def _is_card(piece: Piece, at: int, digits: str, groups: int) -> bool:
    """One number in ten passes Luhn: the words before it decide where its shape is not a card's alone."""
    if groups > 1 or piece.says(context.CARD, at):
        return True
    return len(digits) >= 14 and not _MAESTRO.fullmatch(digits) and not piece.says(context.OTHER_NUMBER, at)


def passports(piece: Piece) -> Found:
    for found in _PASSPORT.finditer(piece.text, piece.at):
        if piece.says(context.PASSPORT, found.start()):
            yield found.span()


def social_security_numbers(piece: Piece) -> Found:
    for found in _SOCIAL_SECURITY.finditer(piece.text, piece.at):
        area, hyphen, group, serial = found.groups()
        if social_security(area, group, serial) and (
            hyphen == "-" or piece.says(context.SOCIAL_SECURITY, found.start())
        ):
            yield found.span()


def plates(piece: Piece) -> Found:
    for found in _PLATE.finditer(piece.text, piece.at):
        serial = found[1]
        letters = sum(c.isascii() and c.isalpha() for c in serial)
        if _NEW_ENERGY.fullmatch(serial) if len(serial) == 6 else letters <= 2:
            yield found.span()
