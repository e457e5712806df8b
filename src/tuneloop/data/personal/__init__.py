"""Personal data in text: found by the checksum or the shape that its issuer defines, masked in whole texts and in streams.

segments     text -> segments, with borders that no personal datum crosses
context      what the words before a number say about it
network, numbers, phones   the detectors, each over one segment
checksums    the issuers' own checks
scan         text in pieces -> spans
masker       spans -> type tags or pseudonyms
pseudonyms   value -> a value of the same shape that is nobody's
names        persons, places and organisations, through presidio and a spaCy model (extra ``names``)
"""

from tuneloop.data.personal.checksums import iban, id_card, luhn
from tuneloop.data.personal.masker import Masker, mask
from tuneloop.data.personal.piece import Rules
from tuneloop.data.personal.scan import CONTINUED, REGIONS, TYPES, WINDOW, Scanner, Span, find

__all__ = [
    "CONTINUED",
    "REGIONS",
    "TYPES",
    "WINDOW",
    "Masker",
    "Rules",
    "Scanner",
    "Span",
    "find",
    "iban",
    "id_card",
    "luhn",
    "mask",
]
