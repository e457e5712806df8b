"""Promise 2 for function calls: prompt and answer, joined, are what transformers renders for the whole conversation."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tool_templates import TEMPLATES, tool_tokenizer
from tuneloop.chat import Chat
from tuneloop.types import Message, Record, ToolCall

pytest.importorskip("transformers")

CHATS = {name: Chat(tool_tokenizer(name)) for name in TEMPLATES}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "它", "parameters": {"type": "object"}}}
    for name in ("weather", "lookup")
]

text = st.sampled_from(["where?", "北京 <b>", "5 °C", 'a "quoted" word', "line\nline", "🙂"])
values = text | st.integers(-5, 5) | st.booleans() | st.lists(text, max_size=2)
call = st.builds(
    lambda name, arguments: ToolCall(name, json.dumps(arguments, ensure_ascii=False)),
    st.sampled_from(["weather", "lookup"]),
    st.dictionaries(st.sampled_from(["city", "天", "n"]), values, max_size=2),
)


@st.composite
def conversations(draw: st.DrawFn, name: str) -> tuple[Message, ...]:
    one = name == "llama"  # it writes one call a turn, and nothing beside it
    out = [Message("system", draw(text))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 2))):
        out.append(Message("user", draw(text)))
        for _ in range(draw(st.integers(0, 2))):
            calls = tuple(draw(st.lists(call, min_size=1, max_size=1 if one else 2)))
            out.append(Message("assistant", "" if one else draw(st.just("") | text), tool_calls=calls))
            out += [Message("tool", draw(text)) for _ in calls]
        out.append(Message("assistant", draw(text)))
    return tuple(out)


def oracle(chat: Chat, messages: tuple[Message, ...], *, as_text: bool) -> str:
    """The conversation as a user of transformers would render it."""
    rows: list[dict[str, Any]] = []
    for m in messages:
        row: dict[str, Any] = {"role": m.role, "content": m.content}
        if m.tool_calls:
            given = [(c.name, c.arguments if as_text else json.loads(c.arguments)) for c in m.tool_calls]
            row["tool_calls"] = [{"type": "function", "function": {"name": n, "arguments": a}} for n, a in given]
        rows.append(row)
    return str(chat.tokenizer.apply_chat_template(rows, tools=TOOLS, tokenize=False))


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_prompt_and_answer_are_the_rendered_conversation(name: str, data: st.DataObject) -> None:
    chat = CHATS[name]
    messages = data.draw(conversations(name))
    tools = json.dumps(TOOLS, ensure_ascii=False)
    for i, message in enumerate(messages):
        if message.role != "assistant":
            continue
        prompt = chat.prompt_ids(messages[:i], tools)
        answer = chat.answer_ids(message, chat.render(messages[:i], generation=True, tools=tools))
        shown = chat.tokenizer.decode(prompt + answer, clean_up_tokenization_spaces=False)
        assert oracle(chat, messages[: i + 1], as_text=name == "deepseek").startswith(shown)
    rows = chat.examples(Record("r", messages, tools=tools))
    assert len(rows) == 1
    assert rows[0].input_ids[: len(prompt)] == prompt
    assert rows[0].label_tokens > len(answer) - 1
