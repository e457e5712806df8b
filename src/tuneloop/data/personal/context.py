"""What the words just before a number say about it. Only words to the left count: a stream does not know the rest."""

from __future__ import annotations

import re

CONTEXT = 160
"""Characters before a number that rules may look at."""
REACH = 64
"""Characters before a number in which its label stands: a word, a gap."""

# Neither a digit nor the end of a sentence or of a replaced span stands between a word and what it is about.
# (The number may stand in the next sentence: "I lost my card. The number is 4...")
_GAP = r"(?:[^0-9\[\]\0,;.!?。\n]|(?<=no)\.){0,24}(?:\. (?:the |my |its )?(?:number|no\.?) (?:is|was) )?[\s:#=(]{0,4}\Z"


def label(latin: str, chinese: str, gap: str = _GAP) -> re.Pattern[str]:
    """A pattern for the text before a number: one of the words, then hardly anything."""
    return re.compile(rf"(?:(?<![A-Za-z\[])(?:{latin})(?![A-Za-z])|{chinese}){gap}", re.IGNORECASE)


PHONE = label(
    r"(?:tele)?phone|mobile|cell(?:phone)?|fax|tel\.?|whatsapp|call(?:ed|ing)?|dial|ring|sms|desk|landline|hotline"
    r"|(?:reach|text) (?:me|us|him|her|them)|(?:phone|tel|mobile|fax)\.? no\.",
    r"电话|手机|座机|传真|热线|固话|致电|拨打|来电|联系方式",
)
CARD = label(
    r"cards?|cc|credit|debit|visa|mastercard|amex|maestro|unionpay|pan|account|acct\.?",
    r"卡号|银行卡|信用卡|储蓄卡|借记卡|账号|帐号|账户|卡",
)
ID_CARD = label(r"id(?: card)?|identity(?: card)?", r"身份证|证件|身份号码|公民身份")
PASSPORT = label(
    r"passports?|travel document|(?:entry|exit|home return) permit|mainland travel permit",
    r"护照|通行证|回乡证|台胞证|港澳证",
)
SOCIAL_SECURITY = label(r"ssn|social security|social", r"社会安全号")
IP = label(r"ip(?: ?v[46])?(?: address(?:es)?)?|host|server|client|gateway|address", r"地址|主机|服务器|网关")
VERSION = label(
    r"v|ver\.?|version|release|build|rev|revision|firmware|chapter|section|clause|§",
    r"版本|固件|章节|第",
    r"[\s:#=(]{0,4}\Z",
)
OTHER_NUMBER = label(
    r"order|invoice|tracking|ticket|case|ref\.?|reference|serial|s/?n|sku|isbn|product|item|model|batch|lot|transaction|txn"
    r"|timestamp|ts|time|amount|price|total|qty|quantity|version|build|uuid|hash|commit",
    r"订单|单号|编号|流水号?|运单|票号|发票|批次|型号|货号|序列|合同|案号|工单|版本|时间戳|金额|价格|总价|合计|数量|条码|追踪",
    r"(?: ?(?:号码?|编号|代码|no\.?|number|num|id|code|of|is|was|是|为|[#:\s=\-_./(])){0,4}[A-Za-z]{0,4}\Z",
)
"""A number of another kind: it needs more than a telephone's or a card's length to be taken for one."""
AMOUNT = re.compile(r"[¥$€£]\s?\Z|[0-9)] ?[=*×÷/^+] ?[\-$]?\Z")
"""A currency sign, or an operator of a calculation."""


def says(pattern: re.Pattern[str], text: str, at: int, reach: int = REACH) -> bool:
    """Whether the words before position ``at`` match."""
    return pattern.search(text[max(0, at - reach) : at]) is not None
