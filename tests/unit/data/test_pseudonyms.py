"""Pseudonyms: the same for the same value, another under another key, and nobody's."""

from __future__ import annotations

import ipaddress
import re

import phonenumbers
import pytest

from tuneloop.data.personal import find, iban, id_card, luhn, mask
from tuneloop.data.personal.checksums import CARD_ISSUERS, credit_code, social_security
from tuneloop.data.personal.pseudonyms import Pseudonyms
from tuneloop.errors import ConfigError

NAMES = Pseudonyms(b"not a secret, a test")
VALUES = {
    "EMAIL": "a.b@c.example", "PHONE": "13800138000", "ID_CARD": "11010519491231002X", "CARD": "4111111111111111",
    "CREDIT_CODE": "91110000600037341L", "IBAN": "GB29NWBK60161331926819", "PASSPORT": "E12345678", "PLATE": "京A12345",
    "IP": "8.8.4.40", "US_SSN": "078-05-1120", "SECRET": "sk-" + "a1" * 20, "URL_SECRET": "abc123XYZ",
}  # fmt: skip


def some(kind: str, n: int = 300) -> list[str]:
    """Pseudonyms of many values of a kind."""
    if kind == "IP":
        return [NAMES.of(kind, str(ipaddress.IPv4Address(2**24 + i))) for i in range(n)]
    return [NAMES.of(kind, f"{VALUES[kind]}{i}") for i in range(n)]


@pytest.mark.parametrize("kind", VALUES)
def test_one_value_has_one_pseudonym_under_a_key_and_another_under_another(kind: str) -> None:
    assert NAMES.of(kind, VALUES[kind]) == Pseudonyms(b"not a secret, a test").of(kind, VALUES[kind])
    assert NAMES.of(kind, VALUES[kind]) != Pseudonyms(b"not a secret, a TEST").of(kind, VALUES[kind])


@pytest.mark.parametrize("kind", VALUES)
def test_different_values_hardly_ever_share_a_pseudonym(kind: str) -> None:
    assert len(set(some(kind))) >= 298  # 300 draws from 10^5 (plates) or more: 0.45 pairs are expected to meet


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("PHONE", "13800138000", "+86 138-0013-8000"),
        ("EMAIL", "A.B@c.example", "a.b@C.example"),
        ("CARD", "4111 1111 1111 1111", "4111111111111111"),
        ("ID_CARD", "11010519491231002x", "110105 19491231 002X"),
        ("IP", "2001:db8:0::1", "2001:DB8::1"),
        ("PLATE", "京A·12345", "京a12345"),
    ],
)
def test_spellings_of_one_value_have_one_pseudonym(kind: str, one: str, other: str) -> None:
    assert re.sub(" ", "", NAMES.of(kind, one)) == re.sub(" ", "", NAMES.of(kind, other))


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize(
    "before", ["", "电话：", "passport no. ", "SSN ", "https://a.example/?token=", "卡号", "https://u:"]
)
def test_a_pseudonym_is_not_taken_for_personal_data(kind: str, before: str) -> None:
    texts = [
        f"{before}{pseudonym}@x, 好" if before.endswith("u:") else f"{before}{pseudonym} 好"
        for pseudonym in some(kind, 60)
    ]
    assert [text for text in texts if find(text)] == []


def test_numbers_are_impossible_by_the_rules_of_their_issuers() -> None:
    assert not any(id_card(x) for x in some("ID_CARD"))
    assert not any(luhn(x) or CARD_ISSUERS.fullmatch(x) for x in some("CARD"))
    assert not any(iban(x) for x in some("IBAN"))
    assert not any(credit_code(x) for x in some("CREDIT_CODE"))
    assert not any(social_security(*x.split("-")) for x in some("US_SSN"))
    assert all(ipaddress.ip_address(x).is_reserved for x in some("IP"))
    mobiles = [NAMES.of("PHONE", f"138{i:08}") for i in range(300)]
    assert not any(phonenumbers.is_valid_number(phonenumbers.parse(x, "CN")) for x in mobiles)


def test_shapes_stay() -> None:
    shapes = {kind: re.sub("[0-9a-f]", "0", NAMES.of(kind, value)) for kind, value in VALUES.items()}
    assert shapes["EMAIL"].endswith("@ps0u0onym.0x0mpl0.0om")
    assert shapes["PHONE"] == "00000000000"
    assert shapes["PLATE"] == "京I00000"
    assert shapes["US_SSN"] == "000-00-0000"
    assert len(NAMES.of("ID_CARD", VALUES["ID_CARD"])) == 18
    assert NAMES.of("CARD", "4111 1111 1111 1111").count(" ") == 3


def test_a_text_with_pseudonyms_reads_on() -> None:
    text = "张三13800138000，李四 +86 138 0013 8000，王五13900139000"
    one, two, three = re.findall("[0-9]{11}", mask(text, replace=NAMES.of))
    assert one == two != three


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 16"):
        Pseudonyms(b"too short")
