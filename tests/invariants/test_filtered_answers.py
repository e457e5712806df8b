"""Personal data never leaves: whatever the tokens, streamed or whole, an answer shows its masked text and nothing else."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.pieces import Pieces, Said, cut, output, say
from tuneloop.data.personal import TYPES, find, mask
from tuneloop.serve.answer import Answer, Finish, Part
from tuneloop.serve.filters.personal import HELD_AT_MOST_CHARACTERS
from tuneloop.types import TokenEvent

DATA = {
    "SECRET": ["sk-" + "a1" * 15, "ghp_" + "Ab1" * 12, "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nQUJDQUJDQUJD\n-----END"],
    "URL_SECRET": ["https://u:pw-12345@host.example/", "https://a.example/x?token=abcdef123456"],
    "EMAIL": ["john.doe@mail.example", "ｗａｎｇ＠ｍａｉｌ．ｃｎ"],
    "IP": ["ip 192.168.10.21", "2001:db8::1:2", "服务器地址：203.0.113.77"],
    "ID_CARD": ["11010519491231002X", "身份证号码是11010519491231002X"],
    "IBAN": ["GB29 NWBK 6016 1331 9268 19", "DE89370400440532013000"],
    "CREDIT_CODE": ["统一社会信用代码91110000600037341L"],
    "CARD": ["4111 1111 1111 1111", "银行卡6222021234567890128", "4111111111111111"],
    "PASSPORT": ["passport number E12345678", "护照号：G12345678"],
    "US_SSN": ["078-05-1120", "SSN 219-09-9999"],
    "PLATE": ["京A12345", "粤B D12345"],
    "PHONE": ["13800138000", "+86 138-0013-8000", "１３８００１３８０００", "电话010-62345678", "(212) 555-0123", "+44 7700 900456"],
}  # fmt: skip
"""Every kind that the data room knows, as English and Chinese text writes it."""
GLUE = [" ", "\n", "，", "。", ". ", "I am at ", "请打", "我的号码是", "order 12 ", "订单号", "é", "😀", "京", "a", "1", "<", "\n\n", "</", "+", "<think", "think>", "\0"]  # fmt: skip
PLANTED = st.sampled_from(list(itertools.chain.from_iterable(DATA.values())))
TEXTS = st.lists(PLANTED | st.sampled_from(GLUE) | st.text(max_size=3), max_size=10).map("".join)
CUTS = st.lists(st.integers(0, 400), max_size=40)
MASK = {"personal_data": {"output": "mask"}}
BLOCK = {"personal_data": {"output": "block"}}


def clean(text: str) -> str:
    """Text as UTF-8 can carry it."""
    return text.encode("utf-8", "replace").decode()


def masked(tokens: list[bytes], **more: object) -> Said:
    return say(tokens, output(**MASK), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "value"), [(k, v) for k, values in DATA.items() for v in values])
def test_every_kind_is_masked_wherever_its_bytes_are_cut(kind: str, value: str) -> None:
    text = f"see: {value}, ok"
    assert kind in {span.type for span in find(text)}
    size = len(text.encode())
    for tokens in (*(cut(text, [at]) for at in range(size)), cut(text, range(size))):
        said = masked(tokens)
        assert said.of("content") == said.answer.content == mask(text)
        assert f"[{kind}]" in said.answer.content


def test_the_kinds_above_are_all_there_are() -> None:
    assert set(DATA) == set(TYPES)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(TEXTS, TEXTS, CUTS, st.integers(1, 5), st.booleans())
def test_reasoning_and_content_are_those_of_the_whole_answer_masked(
    thought: str, text: str, cuts: list[int], together: int, prefilled: bool
) -> None:
    raw = clean(f"{'' if prefilled else '<think>'}{thought}</think>{text}")
    prompt = "Assistant: <think>\n" if prefilled else ""
    plain = say([raw.encode()], None, prompt=prompt).answer
    said = masked(cut(raw, cuts), prompt=prompt, together=together)
    assert said.of("content") == said.answer.content == mask(plain.content)
    assert said.of("reasoning") == (said.answer.reasoning or "") == mask(plain.reasoning or "")


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(TEXTS, CUTS, st.lists(st.sampled_from(["13", "@", " ", "，", "8000"]), max_size=2))
def test_with_stop_strings(text: str, cuts: list[int], stops: list[str]) -> None:
    text = clean(text)
    plain = say([text.encode()], None, stops=stops, reasoning=False).answer
    said = masked(cut(text, cuts), stops=stops, reasoning=False, logprobs=True)
    assert said.of("content") == mask(plain.content)
    assert said.answer.finish == plain.finish


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(TEXTS, CUTS)
def test_a_block_ends_at_the_first_datum_wherever_tokens_are_cut(text: str, cuts: list[int]) -> None:
    text = clean(text)
    spans = find(text)
    said = say(cut(text, cuts), output(**BLOCK), reasoning=False, logprobs=True)
    assert said.of("content") == (text[: spans[0].start] if spans else text)
    assert said.answer.finish == ("content_filter" if spans else "stop")


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(TEXTS)
@example("A" * 2000)
@example("1" * 2000)
def test_no_more_is_held_back_than_promised(text: str) -> None:
    text = clean(text)
    assert masked(cut(text, range(len(text.encode()))), reasoning=False).held <= HELD_AT_MOST_CHARACTERS


def test_chinese_prose_does_not_wait() -> None:
    text = "我们会在三个工作日内处理您的申请，请耐心等待。"
    assert masked(cut(text, range(0, 200, 3)), reasoning=False).held == 0


# --- logprobs: bytes are text -----------------------------------------------------------------------------------------


def places(tokens: list[bytes]) -> list[range]:
    edges = itertools.pairwise(itertools.accumulate(map(len, tokens), initial=0))
    return [range(a, b) for a, b in edges]


def private_bytes(text: str) -> set[int]:
    return {
        at for s in find(text) for at in range(len(text[: s.start].encode()), len(text[: s.end].encode()))
    }  # fmt: skip


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(TEXTS, CUTS, st.integers(1, 4))
def test_no_token_of_masked_text_comes_out_even_by_a_byte(text: str, cuts: list[int], together: int) -> None:
    text = clean(text)
    tokens = cut(text, cuts)
    said, private = masked(tokens, reasoning=False, logprobs=True, together=together), private_bytes(text)
    assert not {i for i, place in enumerate(places(tokens)) if private & set(place)} & said.tokens


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(TEXTS, CUTS)
def test_every_other_token_comes_out(text: str, cuts: list[int]) -> None:
    text = clean(text)
    edges = [len(text[:c].encode()) for c in cuts]  # between characters: tokens that share one stand or fall together
    tokens, private = cut(text, edges), private_bytes(text)
    said = masked(tokens, reasoning=False, logprobs=True)
    assert said.tokens == {i for i, place in enumerate(places(tokens)) if not private & set(place)}


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(TEXTS, TEXTS, CUTS, st.integers(1, 4))
def test_beside_reasoning_tokens_hold_only_what_is_shown(
    thought: str, text: str, cuts: list[int], together: int
) -> None:
    raw = clean(f"<think>{thought}</think>{text}")
    tokens = cut(raw, cuts)
    said = masked(tokens, logprobs=True, together=together)
    shown = said.of("reasoning") + said.of("content")
    for run in runs(tokens, said.tokens):
        assert run.decode("utf-8", "replace").strip("\ufffd") in shown


def runs(tokens: list[bytes], kept: set[int]) -> list[bytes]:
    """Neighbours among the tokens that came out, joined as a reader would."""
    out, last = list[bytes](), -2
    for i in sorted(kept):
        out = [*out[:-1], out[-1] + tokens[i]] if i == last + 1 else [*out, tokens[i]]
        last = i
    return out


def test_prose_beside_reasoning_keeps_its_probabilities() -> None:
    tokens = [b"<think>", b"\n", b"so", b" it", b" is", b"\n", b"</think>", b"\n\n", b"Yes", b",", b" it", b" is", b"."]
    said = masked(tokens, logprobs=True)
    assert said.tokens >= {2, 3, 4, 8, 9, 10, 11, 12}
    assert not said.tokens & {0, 6}


def test_a_token_that_ends_with_the_first_bytes_of_a_datum_is_left_out() -> None:
    raw = "好京A12345。好".encode()
    tokens = [raw[:5], raw[5:6], raw[6:12], "。".encode(), "好".encode()]  # 好 and two bytes of 京, its third, A12345
    assert say([b"".join(tokens)], output(**MASK), reasoning=False).of("content") == "好[PLATE]。好"
    assert masked(tokens, reasoning=False, logprobs=True).tokens == {3, 4}


def test_a_tag_is_not_taken_for_the_same_word_in_the_answer() -> None:
    tokens = [b"<think>", b"a", b"</", b"think", b">", b"think", b" so"]
    said = masked(tokens, logprobs=True)
    assert said.of("content") == "think so"
    assert not {0, 2, 3, 4} & said.tokens


def test_probabilities_do_not_wait_for_the_end_of_the_answer() -> None:
    guard = output(**MASK)
    assert guard is not None
    tokens = [b"one", b" two", b" three", b" four", b" five"]
    answer = Answer(Pieces(tokens), "", stages=[guard], logprobs=True, queue=guard.queue(), reasoning=False)  # type: ignore[arg-type]
    answer.add(TokenEvent("r", tuple(range(5)), (-1.0,) * 5))
    assert [entry.token for entry in answer.take_logprobs()] == tokens[:4]


def test_an_alternative_that_completes_a_datum_is_left_out() -> None:
    tokens = [b"at ", b"1380013800", b" now"]
    top = [[b"at ", b"on "], [b"1380013800", b"13800138000", b"me"], [b" now", b"0", b"!"]]
    said = masked(tokens, reasoning=False, logprobs=True, top=top)
    assert [[t for t, _ in entry.top] for entry in said.logprobs] == [
        [b"at ", b"on "],
        [b"1380013800", b"me"],
        [b" now", b"!"],
    ]


def test_a_flag_holds_nothing_back_and_counts() -> None:
    tokens = cut("call 13800138000 or a.b@c.example", range(40))
    guard = output(personal_data={"output": "flag"})
    said = say(tokens, guard, reasoning=False, logprobs=True)
    assert guard is not None
    assert (said.of("content"), said.held, len(said.logprobs)) == ("call 13800138000 or a.b@c.example", 0, len(tokens))
    assert guard.hits == {("personal_data", "flag"): 2}


# --- calls: a client decodes them, and joins the content around them ---------------------------------------------------


class Calls:
    """A stage that turns ``<call>...</call>`` into a call; one token holds each of the two tags."""

    ended: Finish | None = None

    def __init__(self) -> None:
        self._inside: str | None = None

    def feed(self, parts: list[Part]) -> list[Part]:
        out: list[Part] = []
        for kind, text in parts:
            if text == "<call>":
                self._inside = ""
            elif text == "</call>":
                out.append(("call", self._inside or ""))
                self._inside = None
            elif self._inside is not None:
                self._inside += text
            else:
                out.append((kind, text))
        return out

    def finish(self) -> list[Part]:
        return []


def with_call(before: str, call: str, after: str, config: dict[str, dict[str, object]] = MASK) -> Said:
    tokens = [*cut(before, range(400)), b"<call>", *cut(call, range(0, 4000, 7)), b"</call>", *cut(after, range(400))]
    return say(tokens, output(**config), stages=[Calls()], reasoning=False, logprobs=True)


def leaves(value: object) -> list[str]:
    if isinstance(value, dict):
        return [*value, *itertools.chain.from_iterable(map(leaves, value.values()))]
    if isinstance(value, list):
        return list(itertools.chain.from_iterable(map(leaves, value)))
    return [str(value)]


@pytest.mark.parametrize("value", [v for values in DATA.values() for v in values])
@pytest.mark.parametrize("ascii_only", [True, False], ids=["escaped", "plain"])
def test_no_datum_is_in_the_decoded_arguments_of_a_call(value: str, ascii_only: bool) -> None:
    arguments = {"who": value, "all": [{value: 1}], "text": json.dumps({"inner": value}, ensure_ascii=ascii_only)}
    call = json.dumps({"name": "send", "arguments": arguments}, ensure_ascii=ascii_only)
    said = with_call("ok", call, "")
    (out,) = said.answer.calls
    assert json.loads(out)["name"] == "send"
    read = [*leaves(json.loads(out)), *leaves(json.loads(json.loads(out)["arguments"]["text"]))]
    assert sum(mask(value) in leaf for leaf in read) >= 3
    assert not any(value in leaf for leaf in read)


def test_numbers_repeated_names_and_labels_in_arguments_are_read() -> None:
    escaped = "".join(f"\\u{ord(c):04x}" for c in "13800138000")
    call = '{"name": "f", "arguments": {"a": 13800138000, "phone": "467 3395", "x": "ESC", "x": "fine", "n": 1.50}}'
    call = call.replace("ESC", escaped)
    (out,) = with_call("", call, "").answer.calls
    assert json.loads(out)["arguments"] == {"a": "[PHONE]", "phone": "[PHONE]", "x": "fine", "n": 1.5}
    assert "\\u" not in out


def test_a_call_without_personal_data_is_as_the_model_wrote_it() -> None:
    call = '{"name":"f",  "arguments":{"big": 12345678901234567890, "n": 1.50}}'
    assert with_call("", call, "").answer.calls == [call]


def test_content_around_a_call_is_masked_as_the_client_joins_it() -> None:
    said = with_call("my number is 138001", '{"name": "f", "arguments": {}}', "38000 ok")
    assert said.of("content") == "my number is [PHONE] ok"
    assert len(said.answer.calls) == 1


def test_a_blocked_call_is_not_shown_and_ends_the_answer() -> None:
    said = with_call("one two", '{"name": "f", "arguments": {"to": "a.b@c.example"}}', " three", BLOCK)
    assert (said.of("content"), said.answer.calls, said.answer.finish) == ("one two", [], "content_filter")


def test_tokens_of_a_call_have_no_probabilities() -> None:
    said = with_call("ab", '{"name": "f", "arguments": {"to": "a.b@c.example"}}', "yz")
    assert b"".join(entry.token for entry in said.logprobs) == b"abyz"
