"""The checks that issuers build into their numbers. Each takes the bare number, without spaces or hyphens."""

from __future__ import annotations

import re
from datetime import date

PROVINCES = frozenset(
    [
        "11",
        "12",
        "13",
        "14",
        "15",
        "21",
        "22",
        "23",
        "31",
        "32",
        "33",
        "34",
        "35",
        "36",
        "37",
        "41",
        "42",
        "43",
        "44",
        "45",
        "46",
        "50",
        "51",
        "52",
        "53",
        "54",
        "61",
        "62",
        "63",
        "64",
        "65",
        "71",
        "81",
        "82",
        "83",
        "91",
    ]
)
"""First two digits of a 身份证: GB/T 2260 provinces; 81 to 83 residents of Hong Kong, Macau and Taiwan; 91 foreigners."""

CARD_ISSUERS = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})|(?:5[1-5]|2[2-7])[0-9]{14}|3[47][0-9]{13}|3(?:0[0-5]|[689][0-9])[0-9]{11}"
    r"|35[0-9]{14}|(?:1800|2131)[0-9]{11}|6(?:011|5[0-9]{2}|4[4-9][0-9])[0-9]{12}|62[0-9]{14,17}"
    r"|(?:50|5[6-8]|6[037])[0-9]{10,17}"
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

CREDIT_CODE_CHARACTERS = "0123456789ABCDEFGHJKLMNPQRTUWXY"
"""GB 32100-2015, table 1: the value of a character is its place; I, O, S, V and Z are not used."""


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1: every second digit from the right is doubled, the digit sums add up to a multiple of ten."""
    return (sum(map(int, digits[::-2])) + sum(_DOUBLED[d] for d in digits[-2::-2])) % 10 == 0


_DOUBLED = {str(d): sum(divmod(2 * d, 10)) for d in range(10)}


def card(digits: str) -> bool:
    """A length and first digits that an issuer uses, and the Luhn digit."""
    return bool(CARD_ISSUERS.fullmatch(digits)) and luhn(digits)


def id_card_check(first17: str) -> str:
    """GB 11643-1999: 17 digits weighted by 2^(17-i) mod 11 (ISO 7064 MOD 11-2) give the check character."""
    return "10X98765432"[sum(int(d) * pow(2, 17 - i, 11) for i, d in enumerate(first17)) % 11]


def id_card(number: str) -> bool:
    """GB 11643-1999, 18 characters: a province, a real date of birth, the check character."""
    return number[:2] in PROVINCES and _date(number[6:14]) and id_card_check(number[:17]) == number[17].upper()


def old_id_card(number: str) -> bool:
    """GB 11643-1989, 15 digits of before 1999: a province and a real date of birth; there is no check digit."""
    return number[:2] in PROVINCES and _date("19" + number[6:12])


def _date(yyyymmdd: str) -> bool:
    try:
        date(int(yyyymmdd[:4]), int(yyyymmdd[4:6]), int(yyyymmdd[6:]))
    except ValueError:
        return False
    return True


def iban(compact: str) -> bool:
    """ISO 13616: the length of the country, and 1 modulo 97 with the first four characters moved to the end."""
    compact = compact.upper()
    if IBAN_LENGTHS.get(compact[:2]) != len(compact):
        return False
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def credit_code(code: str) -> bool:
    """GB 32100-2015 (统一社会信用代码), 18 characters: weights 3^(i-1) mod 31.

    Characters 9 to 17 are an organisation code with a check of its own (GB 11714-1997, modulo 11). It is asked for where
    all 18 are digits, since one in 31 numbers of any other kind passes the first check.
    """
    code = code.upper()
    if len(code) != 18 or any(c not in CREDIT_CODE_CHARACTERS for c in code):
        return False
    total = sum(CREDIT_CODE_CHARACTERS.index(c) * pow(3, i, 31) for i, c in enumerate(code[:17]))
    right = CREDIT_CODE_CHARACTERS[-total % 31] == code[17]
    return right and (not code.isdigit() or organisation_code(code[8:17]))


def organisation_code(code: str) -> bool:
    """GB 11714-1997: eight characters weighted by 3, 7, 9, 10, 5, 8, 4, 2; 11 less the sum modulo 11 is the check."""
    total = sum(int(c, 36) * w for c, w in zip(code[:8], (3, 7, 9, 10, 5, 8, 4, 2), strict=True))
    return "0123456789X0"[11 - total % 11] == code[8]


def social_security(area: str, group: str, serial: str) -> bool:
    """US Social Security Administration (POMS RM 10201.035): area not 000, 666, 9xx; group not 00; serial not 0000."""
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"
