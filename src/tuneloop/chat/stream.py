"""Token ids -> text while they arrive: no half characters, no half stop strings."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


@cache
def byte_of_character() -> dict[str, int]:
    """The byte-level BPE alphabet: printable Latin-1 characters are their own byte, the other 68 follow from U+0100.

    Source: ``bytes_to_unicode`` of GPT-2 (Radford et al., 2019), used by Llama 3, Qwen and DeepSeek.
    """
    same = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in set(same)]
    return {chr(b): b for b in same} | {chr(256 + i): b for i, b in enumerate(others)}


def token_bytes(token: str) -> bytes:
    """The bytes a byte-level token stands for; an added token outside that alphabet stands for its own text."""
    table = byte_of_character()
    try:
        return bytes(table[c] for c in token)
    except KeyError:
        return token.encode()


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Tokens that are never text: those with a role (end of text ...) and those marked special (``<|im_start|>``)."""
    marked = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(marked | set(tokenizer.all_special_ids))


def is_byte_level(tokenizer: Any) -> bool:
    """Whether the tokenizer decodes by joining bytes, so that each token can be decoded by itself."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return type(getattr(backend, "decoder", None)).__name__ == "ByteLevel"


class Vocabulary:
    """What the tokens of a tokenizer stand for; each is looked up once.

    Args:
        tokenizer: A Hugging Face tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.special = special_ids(tokenizer)
        self.byte_level = is_byte_level(tokenizer)
        self._bytes: dict[int, bytes] = {}

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes of one token, of any tokenizer; special tokens are their own name."""
        if (found := self._bytes.get(token_id)) is None:
            found = self._bytes[token_id] = self._look_up(token_id)
        return found

    def _look_up(self, token_id: int) -> bytes:
        token = self.tokenizer.convert_ids_to_tokens(token_id)
        if token is None:  # a padded vocabulary has rows without a token
            return b""
        if self.byte_level:
            return token_bytes(token)
        if _BYTE_TOKEN.fullmatch(token):
            return bytes([int(token[3:-1], 16)])
        return str(token).replace("\u2581", " ").encode()  # SentencePiece's mark for a space


class Detokenizer:
    """Text of a growing sequence of tokens. However the tokens are cut into pieces, the texts join to the same.

    Special tokens (end of turn, beginning of text ...) are left out; added tokens such as ``<think>`` are kept.

    Args:
        vocabulary: Of the tokenizer.
        keep: Special tokens that are part of the text all the same.
    """

    def __init__(self, vocabulary: Vocabulary, keep: frozenset[int] = frozenset()) -> None:
        self._step: Callable[[Sequence[int], bool], str]
        self._tokenizer, self._bytes_of = vocabulary.tokenizer, vocabulary.bytes_of
        self._special = vocabulary.special - keep if keep else vocabulary.special
        if vocabulary.byte_level:
            self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
            self._step = self._bytes_step
        else:
            self._ids: list[int] = []
            self._sent = ""
            self._step = self._whole_step

    def feed(self, ids: Iterable[int]) -> str:
        """The text that is certain now; an incomplete character waits."""
        return self._step(list(ids), False)

    def finish(self) -> str:
        """What still waited, incomplete characters replaced by U+FFFD."""
        return self._step([], True)

    def _bytes_step(self, ids: Sequence[int], final: bool) -> str:
        return self._utf8.decode(b"".join([self._bytes_of(i) for i in ids if i not in self._special]), final)

    def _whole_step(self, ids: Sequence[int], final: bool) -> str:
        """Any tokenizer: decode everything again, keep back what may still change.

        A run of byte tokens (``<0xE4>``) waits for its end: decoders with byte fallback replace the whole run when one
        byte in it is wrong.
        """
        self._ids += [i for i in ids if i not in self._special]
        certain = len(self._ids)
        while not final and certain and _BYTE_TOKEN.fullmatch(self._token(self._ids[certain - 1])):
            certain -= 1
        text: str = self._tokenizer.decode(
            self._ids[:certain], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        new, self._sent = text[len(self._sent) :], max(text, self._sent, key=len)
        return new

    def _token(self, token_id: int) -> str:
        return str(self._tokenizer.convert_ids_to_tokens(token_id))


class StopStrings:
    """Ends a text at the first stop string, without ever having sent a part of it.

    Args:
        stops: The strings; the one that begins first ends the text.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(sorted({s for s in stops if s}))
        self._waiting = ""
        self.stopped: str | None = None
        """The stop string that was met."""

    def feed(self, text: str) -> str:
        """The part that can be sent; the rest waits because it may begin a stop string."""
        if self.stopped is not None:
            return ""
        self._waiting += text
        held = self._first_partial()
        sent = self._cut(held)
        return sent if self.stopped is not None else self._take(held)

    def finish(self) -> str:
        """What waited, now that no more text comes."""
        if self.stopped is not None:
            return ""
        sent = self._cut(len(self._waiting))
        return sent if self.stopped is not None else self._take(len(self._waiting))

    def _cut(self, before: int) -> str:
        """Stop at the first stop string that begins at or before a position; '' when there is none."""
        found = [(at, s) for s in self._stops if 0 <= (at := self._waiting.find(s)) <= before]
        if not found:
            return ""
        at, self.stopped = min(found)
        out, self._waiting = self._waiting[:at], ""
        return out

    def _first_partial(self) -> int:
        """Where the earliest unfinished stop string starts at the end of the waiting text."""
        size = len(self._waiting)
        for start in range(max(0, size - max(map(len, self._stops), default=0) + 1), size):
            if any(len(s) > size - start and s.startswith(self._waiting[start:]) for s in self._stops):
                return start
        return size

    def _take(self, count: int) -> str:
        out, self._waiting = self._waiting[:count], self._waiting[count:]
        return out
