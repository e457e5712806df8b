"""A ``Grammar`` kept to, token by token, with llguidance (extra ``structured``).

JSON is written as ``json.dumps`` and Jinja's ``tojson`` write it, on one line with a space after ``:`` and ``,``: white
space that a grammar leaves free is where small models get lost until ``max_tokens``.
"""

from __future__ import annotations

import importlib.util
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cache, cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tuneloop.engines.spelling import Spelling
from tuneloop.errors import DataError, TuneloopError, need
from tuneloop.types import Grammar, Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REFUSED = "response_format: "
"""What the error of a request begins with where its grammar is to blame, not the engine."""
MAX_GRAMMAR_SYMBOLS = 100_000
MAX_LEXER_STATES = 50_000
"""About 1 to 2 kB each (llguidance's documentation)."""
_STYLE = {"whitespace_flexible": False, "key_separator": ": ", "item_separator": ", "}


def available() -> bool:
    """Whether grammars can be kept to in this installation."""
    return importlib.util.find_spec("llguidance") is not None


def control_tokens(tokenizer: Any) -> dict[str, int]:
    """A tokenizer's control tokens by name."""
    return {str(token): index for index, token in tokenizer.added_tokens_decoder.items() if token.special}


def lark(grammar: Grammar, special: Mapping[str, int] | None = None) -> str:
    """The grammar in llguidance's dialect of Lark.

    Args:
        grammar: What is allowed.
        special: Control tokens by name; where ``before`` and ``after`` name one, that token is meant.
    """
    schema = json.loads(grammar.schema) or {"type": "object"}
    body = json.dumps({**schema, "x-guidance": _STYLE}, ensure_ascii=False)
    words = {word: token for word, token in (special or {}).items() if word}
    before, after = _literal(grammar.before, words), _literal(grammar.after, words)
    return f"start: {before} body {after}\nbody: %json {body}\n"


def _literal(text: str, special: Mapping[str, int]) -> str:
    longest_first = sorted(special, key=len, reverse=True)
    pieces = re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if special else [text]
    written = (f"<[{special[p]}]>" if p in special else json.dumps(p, ensure_ascii=False) for p in pieces if p)
    return " ".join(written)


def check(grammar: Grammar) -> None:
    """Compile the schema and look at its first step. Without llguidance, that is left to the engine.

    Raises:
        DataError: It is no schema, says what cannot be kept to, or allows nothing.
    """
    if available():
        _first_step(_matcher(_bytes_tokenizer(), lark(Grammar(grammar.schema))))


def _first_step(matcher: Any) -> None:
    matcher.compute_bitmask()
    if matcher.is_error():
        raise DataError("no JSON is allowed by this schema")


def _matcher(tokenizer: Any, text: str) -> Any:
    guidance = need("llguidance", "structured")
    limits = guidance.LLParserLimits(
        max_grammar_size=MAX_GRAMMAR_SYMBOLS, max_lexer_states=MAX_LEXER_STATES, verbose_errors=False
    )
    matcher = guidance.LLMatcher(tokenizer, text, log_level=0, limits=limits)
    if matcher.is_error():
        raise DataError(_reason(matcher.get_error()))
    return matcher


def _reason(error: str) -> str:
    """llguidance's message without the grammar that it repeats."""
    said = error.partition("failed to compile JSON schema: ")[2] or error
    return " ".join(said.split("\n   1 | ")[0].split())


@cache
def _bytes_tokenizer() -> Any:
    """A tokenizer of 256 bytes and an end: enough to know whether a grammar allows anything."""
    guidance = need("llguidance", "structured")
    wrapper = need("llguidance._tokenizer", "structured").TokenizerWrapper
    tokens = [*(bytes([b]) for b in range(256)), b"<end>"]

    def encode(text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)

    class Bytes(SimpleNamespace):
        def __call__(self, text: bytes | str) -> list[int]:
            return encode(text)

    plain = Bytes(eos_token_id=256, bos_token_id=None, tokens=tokens, special_token_ids=[256])
    return guidance.LLTokenizer(wrapper(plain))


class Guide:
    """One answer on its way through its grammar.

    Args:
        matcher: llguidance's, at the beginning.
        stop_ids: Tokens that end the answer; they are allowed where it may end and nowhere else.
        vocabulary: How many logits there are.
    """

    def __init__(self, matcher: Any, stop_ids: Iterable[int], vocabulary: int) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary
        self._stops = [t for t in stop_ids if 0 <= t < vocabulary]

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next.

        Raises:
            DataError: None may, or the grammar has become too complex.
        """
        import numpy as np

        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        bits = np.unpackbits(packed, bitorder="little")[: self._vocabulary].astype(bool)
        bits = np.pad(bits, (0, self._vocabulary - len(bits)))
        bits[self._stops] = self.may_end
        if self._matcher.is_error() or not bits.any():
            raise DataError(f"{REFUSED}it leads nowhere: {_reason(self._matcher.get_error())}")
        return bits

    @property
    def may_end(self) -> bool:
        """Whether the answer is complete."""
        return bool(self._matcher.is_accepting())

    def take(self, token: int) -> bool:
        """Go on by one token; true when the answer is complete and nothing more is allowed.

        Raises:
            DataError: The grammar does not allow this token here: an engine that draws for itself could not keep to it.
        """
        if not self._matcher.consume_token(token):
            why = _reason(self._matcher.get_error()) if self._matcher.is_error() else f"token {token} is not in it"
            raise DataError(f"{REFUSED}the engine could not keep to it: {why}")
        return bool(self._matcher.is_stopped())


class Guides:
    """Makes guides on a thread of its own: compiling a large schema holds nobody else up.

    Args:
        load: The tokenizer (Hugging Face, fast); called once, when it is needed.
        vocabulary: How many logits the model gives; default: as many as the tokenizer has tokens.
    """

    def __init__(self, load: Callable[[], Any], vocabulary: int = 0) -> None:
        self._load, self._vocabulary = load, vocabulary
        self._tokenizer: Any = None
        self._special: dict[str, int] = {}
        self.ends: frozenset[int] = frozenset()
        """The tokenizer's own end tokens: where the answer may end, one of them ends it."""
        self._preparing = threading.Lock()
        self._pool = ThreadPoolExecutor(1, "grammar")
        self._pending: dict[str, tuple[Request, Future[Guide]]] = {}

    def make(self, request: Request) -> Guide:
        """The guide of a request, here and now.

        Raises:
            DataError: Its grammar cannot be kept to.
        """
        assert request.sampling.grammar is not None
        try:
            matcher = _matcher(self._prepared(), self.text(request.sampling.grammar))
        except (DataError, ValueError) as error:
            raise DataError(f"{REFUSED}{error.what if isinstance(error, DataError) else error}") from error
        return Guide(matcher, request.stop_ids, self._vocabulary)

    def text(self, grammar: Grammar) -> str:
        """The grammar as llguidance reads it, for this tokenizer."""
        self._prepared()
        return lark(grammar, self._special)

    @cached_property
    def spelling(self) -> Spelling:
        """The tokens of a text."""
        tokenizer = self._prepared()
        return Spelling({i: tokenizer.decode_bytes([i]) for i in range(tokenizer.vocab_size)})

    def _prepared(self) -> Any:
        with self._preparing:
            if self._tokenizer is None:
                tokenizer = self._load()
                self._special = control_tokens(tokenizer)
                self._vocabulary = self._vocabulary or len(tokenizer)
                hf, size = need("llguidance.hf", "structured"), max(self._vocabulary, len(tokenizer))
                self._tokenizer = hf.from_tokenizer(tokenizer, n_vocab=size)
                self.ends = frozenset(self._tokenizer.eos_tokens)
        return self._tokenizer

    def begin(self, request: Request) -> None:
        """Make it on the thread; ``ready`` hands it out."""
        self._pending[request.id] = (request, self._pool.submit(self.make, request))

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._pending

    def __len__(self) -> int:
        return len(self._pending)

    def ready(self, wait_s: float) -> list[tuple[Request, Guide | str]]:
        """Those that are made, or the reason why one cannot be; waits up to ``wait_s`` for the first."""
        if wait_s and self._pending:
            wait([future for _, future in self._pending.values()], wait_s, FIRST_COMPLETED)
        done = [(request, future) for request, future in self._pending.values() if future.done()]
        out: list[tuple[Request, Guide | str]] = []
        for request, future in done:
            del self._pending[request.id]
            error = future.exception()
            if error is None:
                out.append((request, future.result()))
            else:  # whatever it was, this request must end and the others go on
                out.append(
                    (request, error.what if isinstance(error, TuneloopError) else f"{type(error).__name__}: {error}")
                )
        return out

    def cancel(self, request_id: str) -> bool:
        """Forget one; true if it was waiting here."""
        return self._pending.pop(request_id, None) is not None

    def close(self) -> None:
        self._pending.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)
