"""Chat templates that know functions, written for tests after the published formats; their instructions are shortened.

qwen       Qwen 2.5 Instruct: calls between ``<tool_call>``, results in user turns
llama      Llama 3.1 Instruct: one call a turn, ``{"name", "parameters"}``, nothing said beside it, results as ``ipython``
deepseek   DeepSeek-V3.1: arguments are text, control tokens around calls, the model goes on after a result without a
           new beginning of a turn
"""

from __future__ import annotations

from typing import Any

from tests.tiny import Style, tiny_tokenizer

QWEN = (
    "{%- if tools %}{{- '<|im_start|>system\n' }}"
    "{%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}{{- '# Tools\n\n<tools>' }}"
    "{%- for tool in tools %}{{- '\n' + tool | tojson }}{%- endfor %}{{- '\n</tools><|im_end|>\n' }}"
    "{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}"
    "{%- endif %}{%- for m in messages %}"
    "{%- if m.role == 'user' %}{{- '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}"
    "{%- elif m.role == 'assistant' %}{{- '<|im_start|>assistant' }}"
    "{%- if m.content %}{{- '\n' + m.content }}{%- endif %}{%- for call in m.tool_calls or [] %}"
    '{{- \'\n<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{- call.function.arguments | tojson }}{{- '}\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}"
    "{%- elif m.role == 'tool' %}"
    "{%- if messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}"
    "{{- '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
LLAMA = (
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\n"
    "{{ messages[0].content | trim if messages[0].role == 'system' }}<|eot_id|>"
    "{% if tools %}<|start_header_id|>user<|end_header_id|>\n\nFunctions:\n"
    "{% for tool in tools %}{{ tool | tojson(indent=4) }}\n\n{% endfor %}<|eot_id|>{% endif %}"
    "{% for m in messages %}"
    "{% if m.tool_calls %}"
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('only single calls') }}{% endif %}"
    "{% set call = m.tool_calls[0].function %}<|start_header_id|>assistant<|end_header_id|>\n\n"
    '{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}<|eot_id|>'
    "{% elif m.role == 'tool' %}<|start_header_id|>ipython<|end_header_id|>\n\n{{ m.content | tojson }}<|eot_id|>"
    "{% elif m.role != 'system' %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}"
    "{% if tools %}\n\n## Tools\n{% for tool in tools %}### {{ tool.function.name }}\n"
    "{{ tool.function.description }}\n{{ tool.function.parameters | tojson }}\n{% endfor %}{% endif %}"
    "{% set ns = namespace(asked=false) %}{% for m in messages %}"
    "{% if m.role == 'user' %}{% set ns.asked = true %}<｜User｜>{{ m.content }}"
    "{% elif m.role == 'assistant' %}{% if ns.asked %}<｜Assistant｜></think>{% endif %}{% set ns.asked = false %}"
    "{{ m.content if m.content is not none }}{% if m.tool_calls %}<｜tool▁calls▁begin｜>{% for call in m.tool_calls %}"
    "<｜tool▁call▁begin｜>{{ call.function.name + '<｜tool▁sep｜>' + call.function.arguments + '<｜tool▁call▁end｜>' }}"
    "{% endfor %}<｜tool▁calls▁end｜>{% endif %}<｜end▁of▁sentence｜>"
    "{% elif m.role == 'tool' %}<｜tool▁output▁begin｜>{{ m.content }}<｜tool▁output▁end｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt and ns.asked %}<｜Assistant｜></think>{% endif %}"
)
TEMPLATES: dict[str, tuple[Style, str, tuple[str, ...]]] = {
    "qwen": ("chatml", QWEN, ("<tool_call>", "</tool_call>")),
    "llama": ("llama3", LLAMA, ()),
    "deepseek": (
        "r1-distill",
        DEEPSEEK,
        (
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁calls▁end｜>",
            "<｜tool▁call▁begin｜>",
            "<｜tool▁call▁end｜>",
            "<｜tool▁sep｜>",
            "<｜tool▁output▁begin｜>",
            "<｜tool▁output▁end｜>",
        ),
    ),
}


def tool_tokenizer(name: str) -> Any:
    """A tiny tokenizer with the template and its control words as tokens."""
    style, template, words = TEMPLATES[name]
    tokenizer = tiny_tokenizer(style)
    tokenizer.add_tokens(list(words))
    tokenizer.chat_template = template
    return tokenizer
