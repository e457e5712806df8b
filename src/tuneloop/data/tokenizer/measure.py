"""How well a tokenizer fits a text, language by language.

Fertility is tokens per word (Rust et al., "How Good is Your Tokenizer?", ACL 2021), and per character where words are not
separated by spaces. The language is told by the script: enough to know which unit counts.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tuneloop.data.tokenizer.train import TOKENIZER
from tuneloop.errors import DataError, need

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

MEASURED_CHARACTERS = 500_000
"""So much of each language is measured."""
TOP = 50
_SCRIPTS = {
    "Japanese": re.compile(r"[\u3040-\u30ff]"),
    "Korean": re.compile(r"[\uac00-\ud7af]"),
    "Chinese": re.compile(r"[\u3400-\u9fff\uf900-\ufaff]"),
    "Cyrillic script": re.compile(r"[\u0400-\u04ff]"),
    "Arabic script": re.compile(r"[\u0600-\u06ff]"),
    "Latin script": re.compile(r"[A-Za-z\u00c0-\u024f]"),
}
_BY_CHARACTER = ("Chinese", "Japanese")
_BATCH = 500


@dataclass(frozen=True, slots=True)
class Fit:
    """A tokenizer on the texts of one language.

    Attributes:
        language: By script.
        texts, characters, bytes, tokens: How much was measured (without special tokens; bytes of UTF-8).
        unit: What fertility counts: word or character (white space apart).
        fertility: Tokens per unit.
        bytes_per_token: Compression.
        unknown: Share of the tokens that are the unknown token.
        covered: Share of the characters that are neither unknown nor cut into several tokens.
        exact: Share of the texts that come back as they were.
    """

    language: str
    texts: int
    characters: int
    bytes: int
    tokens: int
    unit: str
    fertility: float
    bytes_per_token: float
    unknown: float
    covered: float
    exact: float


@dataclass(frozen=True, slots=True)
class Measured:
    """A tokenizer on all measured texts.

    Attributes:
        vocab_size: Tokens, special ones included.
        used: Share of the vocabulary that occurs in the measured texts.
        fits: One for each language, the one with most characters first.
        top: The most frequent tokens, as text, with their share of all tokens.
    """

    vocab_size: int
    used: float
    fits: tuple[Fit, ...]
    top: tuple[tuple[str, float], ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def language(text: str) -> str:
    """The language or script of a text: kana make it Japanese; else Han characters count double, being whole syllables."""
    counts = {name: len(pattern.findall(text)) for name, pattern in _SCRIPTS.items()}
    if not any(counts.values()):
        return "other"
    counts["Chinese"] *= 2
    if counts["Japanese"] * 10 > counts["Chinese"]:
        counts["Japanese"] += counts.pop("Chinese")
    return max(counts, key=lambda name: counts[name])


def sample(texts: Iterable[str]) -> dict[str, list[str]]:
    """Language -> texts, at most ``MEASURED_CHARACTERS`` of each."""
    out: dict[str, list[str]] = defaultdict(list)
    taken = Counter[str]()
    for text in texts:
        name = language(text)
        if taken[name] < MEASURED_CHARACTERS:
            out[name].append(text)
            taken[name] += len(text)
    return dict(sorted(out.items(), key=lambda item: (-taken[item[0]], item[0])))


def measure(tokenizer: Tokenizer, texts: Mapping[str, list[str]]) -> Measured:
    """Encode and decode the texts of every language."""
    seen: Counter[int] = Counter()
    unknown = _unknown_id(tokenizer)
    fits = tuple(_fit(tokenizer, name, mine, unknown, seen) for name, mine in texts.items() if mine)
    size, total = tokenizer.get_vocab_size(with_added_tokens=True), max(1, seen.total())
    by_count = sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:TOP]
    top = tuple((tokenizer.decode([token]), count / total) for token, count in by_count)
    return Measured(size, len(seen) / size, fits, top)


def _unknown_id(tokenizer: Tokenizer) -> int | None:
    model = json.loads(tokenizer.to_str())["model"]
    if model.get("unk_id") is not None:  # Unigram
        return int(model["unk_id"])
    name = model.get("unk_token")
    return tokenizer.token_to_id(name) if name else None


def _fit(tokenizer: Tokenizer, name: str, texts: list[str], unknown: int | None, seen: Counter[int]) -> Fit:
    tokens = unknowns = whole = exact = 0
    for start in range(0, len(texts), _BATCH):
        batch = texts[start : start + _BATCH]
        encoded = tokenizer.encode_batch(batch, add_special_tokens=False)
        decoded = tokenizer.decode_batch([e.ids for e in encoded], skip_special_tokens=False)
        for text, encoding, back in zip(batch, encoded, decoded, strict=True):
            tokens += len(encoding.ids)
            unknowns += encoding.ids.count(unknown) if unknown is not None else 0
            whole += _whole_characters(text, encoding, unknown)
            exact += back == text
            seen.update(encoding.ids)
    characters = sum(map(len, texts))
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    by_character = name in _BY_CHARACTER
    units = sum(len(part) if by_character else 1 for text in texts for part in text.split())
    return Fit(
        name,
        len(texts),
        characters,
        size,
        tokens,
        "character" if by_character else "word",
        fertility=tokens / max(1, units),
        bytes_per_token=size / max(1, tokens),
        unknown=unknowns / max(1, tokens),
        covered=whole / max(1, characters),
        exact=exact / len(texts),
    )


def _whole_characters(text: str, encoding: Encoding, unknown: int | None) -> int:
    """How many characters lie under at most one token that is not the unknown one."""
    spans = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    weight = np.where(np.array(encoding.ids) == unknown, 2, 1) if unknown is not None else np.ones(len(spans), int)
    depth = np.zeros(len(text) + 1, dtype=np.int64)
    np.add.at(depth, spans[:, 0], weight)
    np.subtract.at(depth, spans[:, 1], weight)
    return int((np.cumsum(depth)[: len(text)] <= 1).sum())


def load(place: Path) -> Tokenizer:
    """A tokenizer from its file, its folder, or an installed package (which is not run).

    Raises:
        DataError: There is none, or it is broken.
        MissingExtraError: ``tokenizers`` is not installed.
    """
    need("tokenizers", "tokenizer")
    from tokenizers import Tokenizer

    found = next(
        (p for p in (place, place / TOKENIZER, _in_package(place.name)) if p is not None and p.is_file()), None
    )
    if found is None:
        raise DataError(
            "there is no tokenizer.json", where=str(place), hint="name the file, its folder or an installed package"
        )
    try:
        return Tokenizer.from_file(str(found))
    except Exception as error:  # tokenizers raises plain Exception
        raise DataError(f"not a tokenizer: {error}", where=str(found), hint="it must be a tokenizer.json") from None


def _in_package(name: str) -> Path | None:
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    where = spec.submodule_search_locations if spec else None
    return Path(next(iter(where))) / TOKENIZER if where else None
