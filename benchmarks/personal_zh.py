"""A seeded Chinese test set for personal data: sentences with planted values, and with things that only look like them.

Every number is made here from the public standard, apart from the program that is measured. Each row is (text, spans, decoys),
spans and decoys being (kind, start, end).
"""

from __future__ import annotations

import random
from collections.abc import Callable

Row = tuple[str, list[tuple[str, int, int]], list[tuple[str, int, int]]]

AREAS = [
    "110101",
    "110105",
    "310104",
    "310115",
    "320505",
    "330106",
    "350203",
    "370202",
    "410105",
    "420106",
    "440305",
    "440106",
    "500103",
    "510107",
    "610113",
    "650102",
]
SURNAMES, GIVEN = "王李张刘陈杨黄赵周吴徐孙马朱胡", "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超"
CODE = "0123456789ABCDEFGHJKLMNPQRTUWXY"
PLATE = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"
WIDE = {i: i + 0xFEE0 for i in range(0x21, 0x7F)}


def digits(r: random.Random, n: int) -> str:
    return "".join(r.choice("0123456789") for _ in range(n))


def id18(r: random.Random, ok: bool = True) -> str:
    first = f"{r.choice(AREAS)}{r.randint(1940, 2015)}{r.randint(1, 12):02}{r.randint(1, 28):02}{digits(r, 3)}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    right = "10X98765432"[sum(int(d) * w for d, w in zip(first, weights, strict=True)) % 11]
    return first + (right if ok else r.choice([c for c in "0123456789X" if c != right]))


def id_card(r: random.Random) -> str:
    number = id18(r)
    form = r.random()
    if form < 0.1:
        return f"{r.choice(AREAS)}{r.randint(40, 85)}{r.randint(1, 12):02}{r.randint(1, 28):02}{digits(r, 3)}"
    if form < 0.2:
        return number.lower()
    if form < 0.3:
        return f"{number[:6]} {number[6:14]} {number[14:]}"
    return number.translate(WIDE) if form < 0.4 else number


def mobile(r: random.Random) -> str:
    second = r.choice(["13", "15", "18", "17", "19"])
    third = r.choice(
        {"13": "0123456789", "15": "012356789", "18": "0123456789", "17": "135678", "19": "135689"}[second]
    )
    a, b = digits(r, 4), digits(r, 4)
    head = f"{second}{third}"
    return r.choice(
        [f"{head}{a}{b}"] * 4
        + [
            f"{head} {a} {b}",
            f"{head}-{a}-{b}",
            f"+86 {head}{a}{b}",
            f"+86-{head}-{a}-{b}",
            f"0086{head}{a}{b}",
            f"86{head}{a}{b}",
        ]
        + [f"{head}{a}{b}".translate(WIDE)]
    )


def landline(r: random.Random) -> str:
    area, n = r.choice(
        [("010", 8), ("021", 8), ("0755", 8), ("0571", 8), ("0931", 7), ("0791", 8), ("028", 8), ("0312", 7)]
    )
    number = r.choice("2345678") + digits(r, n - 1)
    return r.choice(
        [f"{area}-{number}"] * 3
        + [f"({area}){number}", f"（{area}）{number}", f"{area}{number}", f"{area}-{number}-{digits(r, 3)}"]
    )


def phone(r: random.Random) -> str:
    return mobile(r) if r.random() < 0.7 else landline(r)


def card16(r: random.Random, ok: bool = True) -> str:
    prefix, n = r.choice([("62", 19), ("62", 19), ("62", 16), ("4", 16), ("53", 16)])
    body = prefix + digits(r, n - 1 - len(prefix))
    total = sum(sum(divmod(int(d) * (2 if i % 2 == 0 else 1), 10)) for i, d in enumerate(reversed(body)))
    right = -total % 10
    return body + str(right if ok else (right + r.randint(1, 9)) % 10)


def card(r: random.Random) -> str:
    number = card16(r)
    form = r.random()
    if form < 0.3:
        return " ".join(number[i : i + 4] for i in range(0, len(number), 4))
    if form < 0.4:
        return "-".join(number[i : i + 4] for i in range(0, len(number), 4))
    return number.translate(WIDE) if form < 0.5 else number


def credit_code(r: random.Random, ok: bool = True) -> str:
    eight = r.choice(["MA" + "".join(r.choice(CODE[:-1]) for _ in range(6)), digits(r, 8)])
    value = {c: i for i, c in enumerate("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")}
    check = 11 - sum(value[c] * w for c, w in zip(eight, (3, 7, 9, 10, 5, 8, 4, 2), strict=True)) % 11
    first = r.choice(["91", "92", "52", "12"]) + r.choice(AREAS) + eight + {10: "X", 11: "0"}.get(check, str(check))
    total = sum(
        CODE.index(c) * w
        for c, w in zip(first, (1, 3, 9, 27, 19, 26, 16, 17, 20, 29, 25, 13, 8, 24, 10, 30, 28), strict=True)
    )
    right = CODE[(31 - total % 31) % 31]
    return first + (right if ok else r.choice([c for c in CODE if c != right]))


def passport(r: random.Random) -> str:
    return r.choice(
        [
            "E" + digits(r, 8),
            "G" + digits(r, 8),
            "E" + r.choice("ABCDEFGH") + digits(r, 7),
            "C" + digits(r, 8),
            "H" + digits(r, 8),
        ]
    )


def plate(r: random.Random) -> str:
    head = r.choice("京沪粤苏浙鲁川渝津冀豫鄂湘皖闽") + r.choice("ABCDEFGHJK")
    if r.random() < 0.3:
        serial = r.choice(["D", "F"]) + r.choice(PLATE) + digits(r, 4)
    else:
        serial = list(digits(r, 5))
        for at in r.sample(range(5), r.randint(0, 2)):
            serial[at] = r.choice(PLATE[:24])
        serial = "".join(serial)
    return head + r.choice(["", "", "", "·", "-", " "]) + serial


def email(r: random.Random) -> str:
    user = r.choice(["zhang", "li.wei", "wang_fang", "chenjie", "liu-yang"]) + r.choice(
        ["", digits(r, 3), digits(r, 6)]
    )
    address = f"{r.choice([user, digits(r, 9)])}@{r.choice(['qq.com', '163.com', 'mail.example.com.cn', 'foxmail.com', 'corp-x.cn'])}"
    return address.translate(WIDE) if r.random() < 0.05 else address


def ip(r: random.Random) -> str:
    if r.random() < 0.25:
        return (
            "2"
            + f"{r.randrange(0x1000):03x}:"
            + ":".join(f"{r.randrange(65536):x}" for _ in range(r.randint(2, 4)))
            + f"::{r.randrange(1, 65536):x}"
        )
    return f"{r.choice([10, 36, 58, 101, 114, 172, 192, 220])}.{r.randint(10, 255)}.{r.randint(0, 255)}.{r.randint(1, 254)}"


def secret(r: random.Random) -> str:
    chars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    tail = "".join(r.choice(chars) for _ in range(36))
    return r.choice(
        [
            f"sk-{tail[:32]}",
            f"ghp_{tail}",
            f"AKIA{''.join(r.choice(chars[26:52]) for _ in range(16))}",
            f"LTAI{tail[:20]}",
        ]
    )


MAKE: dict[str, Callable[[random.Random], str]] = {
    "ID_CARD": id_card, "PHONE": phone, "CARD": card, "CREDIT_CODE": credit_code, "PASSPORT": passport,
    "PLATE": plate, "EMAIL": email, "IP": ip, "SECRET": secret,
}  # fmt: skip
SAID: dict[str, list[str]] = {
    "ID_CARD": ["身份证{}", "身份证号码：{}", "证件号为{}的客户", "{}", "本人{}申请"],
    "PHONE": ["电话{}", "手机号：{}", "请拨打{}联系我", "{}", "联系人小王{}", "致电{}转人工", "加我微信{}"],
    "CARD": ["卡号{}", "转到银行卡{}里", "信用卡尾款请还到{}", "{}", "账号：{}"],
    "CREDIT_CODE": ["统一社会信用代码{}", "税号：{}", "{}", "我司代码{}请开票"],
    "PASSPORT": ["护照号{}", "护照号码：{}", "港澳通行证{}", "持护照{}入境"],
    "PLATE": ["车牌{}", "车牌号：{}", "{}违章停车", "我的车{}被剐蹭"],
    "EMAIL": ["邮箱{}", "发到{}谢谢", "{}", "电子邮件：{}"],
    "IP": ["IP地址{}", "服务器{}宕机", "从{}登录", "地址：{}"],
    "SECRET": ["密钥{}", "key是{}", "请用{}调用接口"],
}
DECOYS: dict[str, Callable[[random.Random], str]] = {
    "身份证, wrong check": lambda r: f"编号{id18(r, ok=False)}",
    "身份证, no such date": lambda r: f"号码{r.choice(AREAS)}1987{r.randint(13, 19)}{r.randint(32, 39)}{digits(r, 4)}",
    "card, wrong Luhn": lambda r: f"卡券{card16(r, ok=False)}",
    "credit code, wrong check": lambda r: f"代码{credit_code(r, ok=False)}",
    "order number": lambda r: f"订单号{r.choice(['2023', '2024', '2025'])}{r.randint(1, 12):02}{r.randint(1, 28):02}{digits(r, r.randint(6, 12))}",
    "order number, random": lambda r: f"订单{digits(r, r.randint(10, 19))}",
    "parcel": lambda r: f"快递单号{r.choice(['SF', 'YT', 'JD', 'ZTO', ''])}{digits(r, 13)}",
    "timestamp": lambda r: f"时间戳{r.choice(['16', '17'])}{digits(r, r.choice([8, 11]))}",
    "date and time": lambda r: f"于{r.randint(1990, 2026)}-{r.randint(1, 12):02}-{r.randint(1, 28):02} {r.randint(0, 23):02}:{r.randint(0, 59):02}:{r.randint(0, 59):02}",
    "amount": lambda r: f"金额{r.randint(1, 999)},{digits(r, 3)},{digits(r, 3)}.{digits(r, 2)}元",
    "amount, plain": lambda r: f"合计{r.randint(1, 9)}{digits(r, r.randint(6, 10))}元",
    "version": lambda r: f"版本{r.randint(1, 20)}.{r.randint(0, 99)}.{r.randint(0, 999)}.{r.randint(0, 255)}",
    "model": lambda r: f"型号E{digits(r, 8)}",
    "isbn": lambda r: f"ISBN 978-7-{digits(r, 4)}-{digits(r, 4)}-{digits(r, 1)}",
    "coordinates": lambda r: f"坐标{r.randint(73, 135)}.{digits(r, 6)},{r.randint(18, 53)}.{digits(r, 6)}",
    "handle": lambda r: f"关注@{r.choice(['news', 'movie', 'sport'])}{digits(r, 4)}",
    "fund code": lambda r: f"基金代码{digits(r, 6)}涨幅{r.randint(0, 9)}.{digits(r, 2)}%",
    "calculation": lambda r: f"{digits(r, 6)}*{digits(r, 5)}={r.randint(1, 9)}{digits(r, 10)}",
}  # fmt: skip
FILLER = [
    "您好，",
    "客户反映",
    "麻烦查询一下，",
    "昨天",
    "我是",
    "，谢谢",
    "。请尽快处理",
    "，已登记",
    "；备注：",
    "和",
    "，",
    "\n",
    " ",
]


def row(r: random.Random) -> Row:
    """One row: one to three values or decoys between bits of Chinese, often without a space."""
    text, spans, decoys = r.choice(FILLER[:5]), [], []
    if r.random() < 0.5:
        text += r.choice(SURNAMES) + "".join(r.choice(GIVEN) for _ in range(r.randint(1, 2)))
    for _ in range(r.randint(1, 3)):
        if r.random() < 0.55:
            kind = r.choice(list(MAKE))
            before, _, after = r.choice(SAID[kind]).partition("{}")
            value = MAKE[kind](r)
            spans.append((kind, len(text) + len(before), len(text) + len(before) + len(value)))
            text += before + value + after
        else:
            kind = r.choice(list(DECOYS))
            value = DECOYS[kind](r)
            decoys.append((kind, len(text), len(text) + len(value)))
            text += value
        text += r.choice(FILLER[5:])
    return text, spans, decoys


def rows(n: int, seed: int) -> list[Row]:
    r = random.Random(seed)
    return [row(r) for _ in range(n)]
