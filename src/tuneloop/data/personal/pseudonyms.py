"""Value -> pseudonym of the same kind: the same everywhere, not to be undone without the key, and nobody's.

A pseudonym is drawn by HMAC-SHA-256 (RFC 2104) of type and value. A plain hash would not do: there are so few telephone
numbers that all of them can be hashed. Each has the shape of its kind, and is impossible by its issuer's own rules, so that
it cannot hit a real person, and so that it can be told from data: ``FORM`` finds it, and it is never replaced again.

    EMAIL        at pseudonym.example.com (RFC 2606 reserves example.com)
    PHONE        154xxxxxxxx, a Chinese mobile prefix not assigned, for Chinese mobiles; else +999, a country code not assigned.
                 The ranges kept for fiction are too small: a thousand numbers in Britain, none in China
    ID_CARD      province 99, and a wrong check character
    CARD         9999 ..., which no issuer has, and a wrong Luhn digit
    CREDIT_CODE  a wrong check character
    IBAN         country XX, check digits 00 (ISO 7064 gives 02 to 98)
    PASSPORT     ZZ and six digits
    PLATE        京I and five digits: plates have no letter I
    IP           240.0.0.0/4 (RFC 1112, reserved) and 100::/64 (RFC 6666, discarded)
    US_SSN       area 000, never issued
    secrets      ``pseudonym-`` and twelve hexadecimal digits
    names        the type and eight hexadecimal digits
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Callable

from tuneloop.data.personal.checksums import CREDIT_CODE_CHARACTERS, credit_code, id_card_check, luhn
from tuneloop.errors import ConfigError

FORM = re.compile(
    r"(?<![0-9A-Za-z])(?:u[0-9a-f]{10}@pseudonym\.example\.com|pseudonym-[0-9a-f]{12}|\+999 [0-9]{3} [0-9]{3} [0-9]{3}"
    r"|154[0-9]{8}|99[0-9]{4}19[5-9][0-9]{8}[0-9X]|9999(?: ?[0-9]{4}){3}|91000000[0-9A-Z]{10}|XX00[0-9]{16}|ZZ[0-9]{6}"
    r"|京I[0-9]{5}|2[45][0-9](?:\.[0-9]{1,3}){3}|100::[0-9a-f:]{1,19}|000-[0-9]{2}-[0-9]{4})(?![0-9A-Za-z])"
)
"""What a pseudonym looks like. No personal datum does."""
SHORTEST_KEY_BYTES = 16
SECRET_CHARACTERS = 256
"""Of a longer secret only so many characters decide its pseudonym: a stream does not wait for the rest."""


class Pseudonyms:
    """Pseudonyms under one key.

    Args:
        key: At least 16 bytes that nobody can guess. Keep it away from the data.

    Raises:
        ConfigError: The key is too short.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < SHORTEST_KEY_BYTES:
            raise ConfigError(
                f"the key for pseudonyms has {len(key)} bytes, at least {SHORTEST_KEY_BYTES} are needed",
                hint="make one with: openssl rand -hex 32",
            )
        self._key = key

    def of(self, kind: str, value: str) -> str:
        """The pseudonym of a value (as folded by ``segments.fold``)."""
        message = f"{kind}\0{canonical(kind, value)}".encode()
        number = int.from_bytes(hmac.digest(self._key, message, hashlib.sha256), "big")
        return _SHAPES.get(kind, _name)(kind, value, number)


def canonical(kind: str, value: str) -> str:
    """Spellings of one value made equal: separators, letter case, a Chinese mobile's country code."""
    if kind in ("SECRET", "URL_SECRET"):
        return value[:SECRET_CHARACTERS]
    if kind == "EMAIL":
        return value.lower()
    if kind == "IP":
        return str(ipaddress.ip_address(value))
    bare = re.sub(r"[^0-9A-Za-z\u4e00-\u9fff]" if kind != "PHONE" else "[^0-9+]", "", value).upper()
    return re.sub(r"^(?:\+|00)?86(?=1[3-9][0-9]{9}$)", "", bare) if kind == "PHONE" else bare


def _email(kind: str, value: str, number: int) -> str:
    return f"u{number % 16**10:010x}@pseudonym.example.com"


def _phone(kind: str, value: str, number: int) -> str:
    if re.fullmatch("1[3-9][0-9]{9}", canonical(kind, value)):
        return f"154{number % 10**8:08}"
    digits = f"{number % 10**9:09}"
    return f"+999 {digits[:3]} {digits[3:6]} {digits[6:]}"


def _id_card(kind: str, value: str, number: int) -> str:
    day, serial = 1 + number % 28, number // 10**6 % 1000
    first17 = f"99{number // 10**9 % 10**4:04}{1950 + number // 28 % 50}{1 + number // 1400 % 12:02}{day:02}{serial:03}"
    return first17 + ("1" if id_card_check(first17) == "0" else "0")


def _card(kind: str, value: str, number: int) -> str:
    first15 = f"9999{number % 10**11:011}"
    digits = first15 + ("1" if luhn(first15 + "0") else "0")
    return " ".join(digits[i : i + 4] for i in range(0, 16, 4)) if " " in value else digits


def _credit_code(kind: str, value: str, number: int) -> str:
    tail = "".join(CREDIT_CODE_CHARACTERS[number // 31**i % 31] for i in range(9))
    code = f"91000000{tail}"
    return code + next(c for c in "AB" if not credit_code(code + c))


def _ip(kind: str, value: str, number: int) -> str:
    if ":" in value:
        return str(ipaddress.IPv6Address((0x100 << 112) + number % 2**64))
    return str(ipaddress.IPv4Address((0xF0 << 24) + number % (2**28 - 1)))


def _secret(kind: str, value: str, number: int) -> str:
    return f"pseudonym-{number % 16**12:012x}"


def _name(kind: str, value: str, number: int) -> str:
    return f"{kind.capitalize()}-{number % 16**8:08x}"


_SHAPES: dict[str, Callable[[str, str, int], str]] = {
    "EMAIL": _email,
    "PHONE": _phone,
    "ID_CARD": _id_card,
    "CARD": _card,
    "CREDIT_CODE": _credit_code,
    "IBAN": lambda kind, value, number: f"XX00{number % 10**16:016}",
    "PASSPORT": lambda kind, value, number: f"ZZ{number % 10**6:06}",
    "PLATE": lambda kind, value, number: f"京I{number % 10**5:05}",
    "IP": _ip,
    "US_SSN": lambda kind, value, number: f"000-{1 + number % 99:02}-{1 + number // 99 % 9999:04}",
    "SECRET": _secret,
    "URL_SECRET": _secret,
}
