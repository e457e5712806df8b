"""Orders hidden in data: the common forms of prompt injection in English and Chinese. Best effort, and no more than that.

The forms follow OWASP's Top 10 for LLM Applications 2025, LLM01: orders to forget the instructions, requests for the
system prompt, new roles without rules, forged turns, and all of these inside an encoded payload.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Sequence

from tuneloop.serve.filters.text import Found

_OLD = r"(?:all |any |every |the |of |your |my |these |those |this )*(?:previous|prior|above|earlier|preceding|foregoing|original|initial|existing|system)"
_RULES = r"(?:instructions?|prompts?|rules|directions|directives|guidelines|commands|orders|constraints|context|messages?|programming|polic(?:y|ies))"
_ZH_OLD = r"(?:之前|以前|先前|前面|上面|上述|以上|此前|原来|原有|原先|系统|初始|所有|全部|一切|任何|你的|您的|的|这些)+"
_ZH_RULES = r"(?:指令|指示|提示词?|规则|命令|要求|设定|限制|约束|内容|对话|说明|系统消息)"
_PATTERNS = (
    rf"\b(?:ignore|disregard|forget|override|bypass|overlook|neglect|skip)\b[^.!?\n]{{0,30}}?\b{_OLD}\W{{1,3}}(?:\w+\W{{1,3}}){{0,2}}{_RULES}\b",
    rf"\b(?:do not|don't|stop|no longer) (?:follow|obey|listen to|adhere to)(?:ing)? {_OLD} (?:\w+ )?{_RULES}\b",
    rf"\b(?:ignore|disregard|forget) (?:all |any )?(?:of )?(?:your|the) (?:\w+ )?(?:{_RULES}|training|safety)\b",
    r"\b(?:ignore|disregard|forget) (?:everything|anything|all)(?: that)? (?:you (?:were|have been|have learn(?:ed|t)|learn(?:ed|t)|know|were told)|above|before|said|written|i said)",
    r"\b(?:reveal|show|print|repeat|output|display|leak|expose|dump|tell me|give me|write out|what (?:is|are|was|were))\b[^.!?\n]{0,25}?\b(?:your|the) "
    r"(?:full |entire |exact |complete |hidden |secret |original |initial |own )*(?:system (?:prompt|message|instructions?)|(?:hidden|secret|initial|original|internal) (?:prompt|instructions?)|prompt verbatim)",
    r"\b(?:repeat|print|output) (?:all |everything |the (?:text|words) )(?:above|before this)\b",
    r"\byou are (?:now|no longer) (?:DAN\b|an? (?:unrestricted|unfiltered|uncensored|evil|jailbroken|amoral)|bound by|in (?:developer|debug|god|dan) mode|free (?:from|of) (?:all|any))",
    r"\b(?:enter|enable|activate|switch (?:in)?to) (?:developer|debug|god|dan|jailbreak|sudo|admin(?:istrator)?) mode\b",
    r"\b(?:DAN|jailbreak|STAN|AIM) mode\b|\bdo anything now\b|\bdeveloper mode (?:enabled|output|on)\b",
    r"\bfrom now on,? you (?:are going to|are to|will(?: have to)?|must|have to|shall) (?:act|pretend|answer|respond|behave|play|speak)\b",
    r"\b(?:play|immerse yourself in(?:to)?|assume|take on) the role of (?:an?other|an?) (?:\w+ ){0,3}(?:AI|artificial intelligence|chatbot|language model)\b",
    r"\b(?:act|pretend|respond|behave) (?:(?:as if|like|as though|that) )?(?:you (?:have|had) no|there (?:are|were) no) (?:\w+ ){0,2}(?:rules|restrictions|limits|limitations|guidelines|filters|policies)",
    r"\b(?:without|free of|bypass(?:ing)?) (?:any |all |your )*(?:safety|content|ethical|moral) (?:filters?|restrictions|guidelines|polic(?:y|ies)|guardrails)",
    rf"(?:忽略|忽视|无视|忘记|忘掉|忘了|抛弃|跳过|绕过|不要(?:再)?(?:理会|遵守|遵循)|不用(?:再)?(?:理会|遵守))[^。！？\n]{{0,8}}?{_ZH_OLD}{_ZH_RULES}",
    r"(?:显示|输出|打印|重复|透露|泄露|告诉我|展示|给我看|说出|公开|复述|写出|是什么)[^。！？\n]{0,12}?(?:你的|您的|完整的?|原始的?|隐藏的?|内部的?|初始的?)+(?:系统)?(?:提示词|系统提示|系统消息|系统指令|初始指令|内部指令|隐藏指令|prompt)",
    r"(?:系统提示词|系统提示|system prompt)[^。！？\n]{0,8}(?:是什么|发给我|告诉我|打印|原文|全文|逐字)",
    r"你现在(?:是|进入|处于|扮演)[^。！？\n]{0,12}?(?:没有(?:任何)?限制|不受(?:任何)?(?:限制|约束)|开发者模式|越狱|无限制|DAN\b)",
    r"(?:进入|开启|启用|切换(?:到|至)?)(?:开发者|调试|越狱|上帝|管理员|无限制)模式",
    r"(?:假装|扮演|当作|假设)[^。！？\n]{0,10}?(?:没有|不受)(?:任何)?(?:限制|约束|规则|道德|审查)",
    # forged turns: the control words of the common templates, and headings that look like them
    r"<\|(?:im_start|im_end|endoftext|eot_id|start_header_id|end_header_id|system|user|assistant|begin_of_text)\|>",
    r"<｜(?:User|Assistant|System|begin▁of▁sentence|end▁of▁sentence|tool▁calls?▁begin)｜>",
    r"\[/?INST\]|<</?SYS>>|</?(?:system|system_prompt|system-reminder)>",
    r"(?:^|\n)\s{0,3}(?:#{2,4} ?)?(?:system|assistant|系统|助手)(?: ?(?:message|prompt|override|消息|指令))? ?(?::|：)\s{0,3}(?:you|ignore|from now|new|the user|override|你|忽略|从现在|新的)",
    r"\b(?:new|updated|real|actual) (?:system )?(?:instructions?|prompt) ?(?::|：)",
    r"(?:新的?|真正的|最新)(?:系统)?(?:指令|提示词) ?[：:]",
)
_FORMS = re.compile("|".join(f"(?:{p})" for p in _PATTERNS), re.IGNORECASE)
_INVISIBLE = re.compile("[\u200b-\u200f\u2060-\u2064\u00ad\ufeff\U000e0000-\U000e007f]")
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{24,4000}={0,2}")
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:[0-9A-Fa-f]{2}[ :]?){20,2000}(?![0-9A-Za-z])")
_TAGS = re.compile("[\U000e0020-\U000e007e]+")


class PromptInjection:
    """A ``Finder`` for whole texts: it says nothing before the end."""

    name = "prompt_injection"

    def __init__(self) -> None:
        self._text, self._done = "", False

    @property
    def settled(self) -> int:
        return len(self._text) if self._done else 0

    def feed(self, text: str, final: bool = False) -> Sequence[Found]:
        self._text, self._done = self._text + text, final
        return [Found(0, len(self._text), "[INJECTION]")] if final and suspicious(self._text) else []


def suspicious(text: str) -> bool:
    """Whether a text has one of the common forms, in the open or encoded (base64, hexadecimal, invisible characters)."""
    return any(_FORMS.search(_plain(one)) for one in (text, *_decoded(text)))


def _plain(text: str) -> str:
    """Compatibility forms unified, invisible characters left out, runs of spaces made one."""
    return re.sub(r"[ \t]+", " ", _INVISIBLE.sub("", unicodedata.normalize("NFKC", text)))


def _decoded(text: str) -> list[str]:
    found = ["".join(chr(ord(c) - 0xE0000) for c in run[0]) for run in _TAGS.finditer(text)]
    for run in _BASE64.finditer(text):
        body = run[0].rstrip("=").replace("-", "+").replace("_", "/")
        try:
            found.append(base64.b64decode(body + "=" * (-len(body) % 4)).decode("utf-8"))
        except (binascii.Error, UnicodeDecodeError):  # a word, a key, a picture: no text
            continue
    found += [bytes.fromhex(re.sub("[ :]", "", run[0])).decode("utf-8", "replace") for run in _HEX.finditer(text)]
    return found
