"""Templates for tokenizers that come without one. They are never applied by guess: a user names one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneloop.errors import ModelError

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

PLAIN = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '### Assistant\n' + message['content'] + eos_token + '\n\n' }}"
    "{% else %}{{ '### ' + message['role'] | capitalize + '\n' + message['content'] + '\n\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '### Assistant\n' }}{% endif %}"
)

BUILT_IN: Mapping[str, str] = {"chatml": CHATML, "plain": PLAIN}
"""``plain`` needs no special token but the end-of-text token; ``chatml`` needs ``<|im_start|>`` and ``<|im_end|>``."""


def choose(tokenizer: Any, template: str | None) -> str:
    """The template text: the named built-in, the given Jinja text, or the tokenizer's own.

    Raises:
        ModelError: There is none, or an unknown name.
    """
    if template is not None:
        if "{" not in template and template not in BUILT_IN:
            raise ModelError(
                f"there is no built-in chat template {template!r}",
                hint=f"choose one of {', '.join(sorted(BUILT_IN))}, or give Jinja text",
            )
        return BUILT_IN.get(template, template)
    own = getattr(tokenizer, "chat_template", None)
    if isinstance(own, Mapping):  # several named templates; "default" is the one for conversations
        own = own.get("default")
    if not own:
        raise ModelError(
            "the tokenizer has no chat template, so nobody knows how this model wants its messages written",
            where=str(getattr(tokenizer, "name_or_path", "") or "tokenizer"),
            hint="use the -Chat or -Instruct variant of the model, or choose a template: model.chat_template=plain",
        )
    return str(own)
