"""Personal data: published numbers, their neighbours with a wrong checksum, and text that only looks like it."""

from __future__ import annotations

import pytest

from tuneloop.data.personal import find, iban, id_card, luhn, mask
from tuneloop.data.personal.checksums import credit_code, old_id_card, organisation_code, social_security


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


@pytest.mark.parametrize("number", ["160105194912310020", "990105194912310020"])
def test_id_card_rejects_provinces_that_do_not_exist(number: str) -> None:
    assert not any(id_card(number[:17] + check) for check in "0123456789X")


def test_the_old_id_card_of_the_standards_example_is_accepted_and_an_impossible_date_is_not() -> None:
    assert old_id_card("110105491231002")  # 11010519491231002X of GB 11643-1999 before 1999
    assert not old_id_card("110105491331002")


def test_credit_code_accepts_a_published_code_and_rejects_each_changed_character() -> None:
    code = "91110000600037341L"  # the example of python-stdnum's stdnum.cn.uscc
    assert credit_code(code)
    assert organisation_code(code[8:17])
    for i in range(18):
        assert not credit_code(code[:i] + ("2" if code[i] != "2" else "3") + code[i + 1 :])


@pytest.mark.parametrize(
    ("number", "ok"),
    [
        ("078-05-1120", True),  # printed on the SSA's famous sample card, valid by form
        ("000-12-3456", False),
        ("666-12-3456", False),
        ("900-12-3456", False),
        ("123-00-4567", False),
        ("123-45-0000", False),
    ],
)
def test_social_security_numbers_follow_the_rules_of_their_issuer(number: str, ok: bool) -> None:
    assert social_security(*number.split("-")) == ok


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to john.o'brien@mail.example", "write to [EMAIL]"),
        ("it says 'a@b.example'", "it says '[EMAIL]'"),
        ("José.García@correo.example", "[EMAIL]"),
        ("邮箱ｚｈａｎｇ＠ｅｘａｍｐｌｅ．ｃｏｍ。", "邮箱[EMAIL]。"),
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
        ("（０１０）６２３４５６７８转8", "[PHONE]转8"),
        ("手机１３８００１３８０００，13900139000", "手机[PHONE]，[PHONE]"),
        ("0086-138-0013-8000或(+86)13800138000", "[PHONE]或[PHONE]"),
        ("Fax: 345-899-3560x4587", "Fax: [PHONE]"),
        ("Desk: +46 (0)8 928 571 38", "Desk: [PHONE]"),
        ("or 0494 92 82 32 at night", "or [PHONE] at night"),
        ("Phone:\n467 3395", "Phone:\n[PHONE]"),
        ("call me on 1 900 2000 now", "call me on [PHONE] now"),
        ("快递电话13800138000", "快递电话[PHONE]"),
        ("身份证号１１０１０５１９４９１２３１００２Ｘ的客户", "身份证号[ID_CARD]的客户"),
        ("110105 19491231 002x", "[ID_CARD]"),
        ("身份证110105491231002", "身份证[ID_CARD]"),
        ("税号91110000600037341L，", "税号[CREDIT_CODE]，"),
        ("护照号E12345678，港澳通行证：C98765432", "护照号[PASSPORT]，港澳通行证：[PASSPORT]"),
        ("US passport no. 123456789", "US passport no. [PASSPORT]"),
        ("车牌京A·12345和粤BD12345、沪C1234学", "车牌[PLATE]和[PLATE]、[PLATE]"),
        ("我的车川A D98765被剐蹭", "我的车[PLATE]被剐蹭"),
        ("SSN 078-05-1120; social security number 078051120", "SSN [US_SSN]; social security number [US_SSN]"),
        ("from 203.0.113.7, [2001:db8::8a2e:370:7334]:443", "from [IP], [[IP]]:443"),
        ("IP地址1.2.3.4", "IP地址[IP]"),
        ("地址：2001:db8::1:", "地址：[IP]:"),
        ("ftp://bob:hunter2@host.example/x", "ftp://bob:[URL_SECRET]@host.example/x"),
        ("https://a.example/?id=7&access_token=abc123XYZ&x=1", "https://a.example/?id=7&access_token=[URL_SECRET]&x=1"),
        ("my card is lost. The number is 4222222222222", "my card is lost. The number is [CARD]"),
        ("12 4111 1111 1111 1111 5555 5555 5555 4444 7", "12 [CARD] [CARD] 7"),
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
        "订单号20240102123045678901，快递单号SF1380013800012",
        "订单13800138000",  # what is named another number is not taken for a mobile
        "卡券6222021234567890127",
        "税号91110000600037341M",
        "型号E12345678",
        "于2024-01-02 12:30:45登录，时间戳1704169845123",
        "version 4.18.0.305, v10.0.19.45, 版本12.1.30.4, 1.2.3.4",
        "0.0.0.0 127.0.0.1 ::1 255.255.255.0 224.0.0.251 10.0.0.0/8",
        "std::vector, 12:30:45, face::b00c, 00:1a:2b:3c:4d:5e",
        "https://a.example/?page=2&sort=token",
        "关注@news2024，@alice",
        "1000 / 200 phones = $1000/200, 6778576 = 16666579378",
        "坐标116.397128,39.916527，x = 0.0496130162728",
        "1704169845 1704169845123 9780306406157",
        "云南B类，新A股12345",
        "git@github.com:a/b.git",
        "GB29NWBK60161331926818 000-12-3456 666-12-3456",
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


SECRETS = [
    "AKIAIOSFODNN7EXAMPLE",  # the example of AWS' documentation
    "sk-proj-abcdefghijklmnopqrst1234567890",
    "ghp_" + "a1B2" * 9,
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c",
    "LTAI5tAbCdEfGh1234567890",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_keys_are_known_by_their_beginning(secret: str) -> None:
    assert mask(f"key={secret},密钥{secret}。") == "key=[SECRET],密钥[SECRET]。"


def test_of_a_private_key_the_body_is_masked() -> None:
    body = "\n".join(["MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"] * 20 + ["ab=="])
    for name in ("PRIVATE KEY", "RSA PRIVATE KEY", "OPENSSH PRIVATE KEY"):
        text = f"see -----BEGIN {name}-----\n{body}\n-----END {name}----- ok 13800138000"
        assert mask(text) == f"see -----BEGIN {name}-----\n[SECRET]\n-----END {name}----- ok [PHONE]"


def test_of_an_encrypted_private_key_the_body_is_masked() -> None:
    head = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0123456789ABCDEF\n\n"
    assert mask(head + "MIIEvQIBADANBgkqhkiG9w0BAQEF\n-----END") == head + "[SECRET]\n-----END"


def test_a_long_secret_is_masked_to_its_end() -> None:
    assert mask("t=sk-" + "a1" * 4000 + " end") == "t=[SECRET] end"


def test_types_can_be_limited_and_no_part_of_another_type_is_taken_for_them() -> None:
    assert [s.type for s in find("a@b.example 13800138000", types=("EMAIL",))] == ["EMAIL"]
    assert find("call 4111 1111 1111 1111", types=("PHONE",)) == []


def test_regions_say_which_national_numbers_are_known() -> None:
    assert find("612 345 678") == []
    assert [s.type for s in find("612 345 678", regions=("ES",))] == ["PHONE"]


def test_private_addresses_can_be_kept() -> None:
    assert [s.start for s in find("10.1.2.3 or 8.8.4.40", private_ips=False)] == [12]
