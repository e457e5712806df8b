"""Personal data: published numbers, their neighbours with a wrong checksum, and text that only looks like it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuneloop.data.personal import find, iban, id_card, luhn, mask


@pytest.mark.parametrize(
    "digits",
    [
        "79927398713",  # the worked example of US patent 2,950,048 as commonly cited
        "4111111111111111",  # test numbers that card schemes publish
        "5555555555554444",
        "378282246310005",
        "6011111111111117",
        "3530111333300000",
    ],
)
def test_luhn_accepts_published_numbers_and_rejects_each_changed_digit(digits: str) -> None:
    assert luhn(digits)
    for i, d in enumerate(digits):
        assert not luhn(digits[:i] + str((int(d) + 1) % 10) + digits[i + 1 :])


@pytest.mark.parametrize("number", ["11010519491231002X", "11010519491231002x", "440524188001010014"])  # GB 11643-1999
def test_id_card_accepts_the_examples_of_the_standard(number: str) -> None:
    assert id_card(number)


@pytest.mark.parametrize("number", ["110105194912310021", "11010519491331002X", "110105194902300020"])
def test_id_card_rejects_wrong_check_characters_and_impossible_dates(number: str) -> None:
    assert not id_card(number)


@pytest.mark.parametrize(
    "number", ["GB29NWBK60161331926819", "DE89370400440532013000", "FR1420041010050500013M02606", "NO9386011117947"]
)  # the examples of the SWIFT IBAN registry
def test_iban_accepts_the_registry_and_rejects_another_last_digit(number: str) -> None:
    assert iban(number)
    assert not iban(number[:-1] + str((int(number[-1]) + 1) % 10))
    assert not iban(number + "0")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to john.o'brien@mail.example", "write to john.o'[EMAIL]"),
        ("mail a.b+c@x-y.example.co.uk.", "mail [EMAIL]."),
        ("邮箱zhang@example.com谢谢", "邮箱[EMAIL]谢谢"),
        ("card 4111 1111 1111 1111 please", "card [CARD] please"),
        ("4111-1111-1111-1111,09/29", "[CARD],09/29"),
        ("4111 1111 1111 1111 123", "[CARD] 123"),
        ("amex 378282246310005.", "amex [CARD]."),
        ("银联6222021234567890128卡", "银联[CARD]卡"),
        ("身份证11010519491231002X，谢谢", "身份证[ID_CARD]，谢谢"),
        ("pay GB29 NWBK 6016 1331 9268 19 today", "pay [IBAN] today"),
        ("pay gb29nwbk60161331926819", "pay [IBAN]"),
        ("我的手机13800138000。", "我的手机[PHONE]。"),
        ("+86 138 0013 8000", "[PHONE]"),
        ("ring 07700 900123 or +44 7700 900456", "ring [PHONE] or [PHONE]"),
        ("call (212) 555-0123 or 212-555-0199", "call [PHONE] or [PHONE]"),
        ("office +91 22 6131 2345", "office [PHONE]"),
        ("座机010-62345678", "座机[PHONE]"),
    ],
)
def test_personal_data_is_masked(text: str, masked: str) -> None:
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "card 4111 1111 1111 1112",  # Luhn fails
        "身份证110105194912310021",
        "order 882190 of 2024-01-02 for 1,200.00",
        "balance 13800.50, branch 0012, 2 weeks, 24/7",
        "a @ b, @handle, me@localhost",
        "GB29NWBK60161331926818",
        "version 1.2.3.4 build 20240102",
        "77 intents, 10,003 rows",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert mask(text) == text


def test_spans_point_at_the_text() -> None:
    text = "ring 07700 900123, mail a@b.example"
    assert [(s.type, text[s.start : s.end]) for s in find(text)] == [
        ("PHONE", "07700 900123"),
        ("EMAIL", "a@b.example"),
    ]


def test_types_and_regions_can_be_limited() -> None:
    assert find("a@b.example 13800138000", types=("EMAIL",))[0].type == "EMAIL"
    assert len(find("a@b.example 13800138000", types=("EMAIL",))) == 1
    assert find("03-3210-1234") == []
    assert [s.type for s in find("03-3210-1234", regions=("JP",))] == ["PHONE"]


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("0123456789 -+()@.abGBXx身"), max_size=60))
def test_spans_never_overlap_and_only_they_are_masked(text: str) -> None:
    spans = find(text)
    assert all(a.end <= b.start for a, b in itertools.pairwise(spans))
    assert all(0 <= s.start < s.end <= len(text) for s in spans)
    tags = sum(len(s.type) + 2 for s in spans)
    assert len(mask(text)) == len(text) - sum(s.end - s.start for s in spans) + tags
