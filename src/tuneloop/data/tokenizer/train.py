"""Training: byte-level BPE or WordPiece, and the three files that transformers loads."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from tuneloop.data.tokenizer.config import TokenizerConfig
from tuneloop.errors import ConfigError, DataError, need
from tuneloop.progress import track
from tuneloop.rundir import RunDir

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER, UNKNOWN, INSIDE = "tokenizer.json", "[UNK]", "##"
Stream = Callable[[], Iterable[str]]
"""Begins to read texts, each time from the first."""
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_MARKER = re.compile(r"<[|｜][^<>|｜]+[|｜]>|</?[a-z_]+>")
"""What templates write around messages: ``<|im_start|>``, ``<｜User｜>``, ``<think>``."""

DIGITS = r"\p{N}{1,3}"
IDEOGRAPHS = r"[一-龥぀-ゟ゠-ヿ]+"
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Where text may be cut before it is merged: numbers by three digits and runs of ideographs by themselves, as in the
published tokenizer of DeepSeek-V3; words, marks and spaces as in GPT-4's (cl100k of tiktoken)."""


def template(config: TokenizerConfig) -> str | None:
    """The chat template's text.

    Raises:
        ConfigError: Its file cannot be read.
    """
    if config.chat_template is None or config.chat_template == "chatml":
        return CHATML if config.chat_template else None
    try:
        return config.chat_template.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the chat template cannot be read: {error}", where=str(config.chat_template), hint="chatml is built in"
        ) from None


def named_tokens(config: TokenizerConfig) -> dict[str, str]:
    """Role -> token, in the names of transformers."""
    if config.model == "bpe":
        end = "<|im_end|>" if config.chat_template == "chatml" else "<|endoftext|>"
        return {"eos_token": config.eos_token or end, "pad_token": config.pad_token or "<|pad|>"}
    return {
        "pad_token": config.pad_token or "[PAD]",
        "unk_token": UNKNOWN,
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    } | ({"eos_token": config.eos_token} if config.eos_token else {})


def special_tokens(config: TokenizerConfig) -> list[str]:
    """Every token that is never cut, each once: they get the first ids, in this order."""
    markers = _MARKER.findall(template(config) or "")
    return list(dict.fromkeys([*named_tokens(config).values(), *markers, *config.special_tokens]))


def train(config: TokenizerConfig, texts: Stream) -> Tokenizer:
    """Learn a vocabulary; the same texts in the same order give the same file, byte for byte.

    Args:
        config: What to learn.
        texts: Begins to read the texts; wordpiece reads them twice.

    Raises:
        DataError: There is no text.
        ConfigError: The special tokens leave no room in the vocabulary.
        MissingExtraError: ``tokenizers`` is not installed.
    """
    need("tokenizers", "tokenizer")
    specials = special_tokens(config)
    if next(iter(texts()), None) is None:
        raise DataError("there is no text to learn from", where="tokenizer.sources", hint="check the files it names")
    if config.model == "bpe":
        tokenizer, trainer = _bpe(config, specials)
    else:
        tokenizer, trainer = _wordpiece(config, specials, texts)
    tokenizer.train_from_iterator(track(texts(), "learning tokens", unit="texts"), trainer)
    return tokenizer if config.model == "bpe" else _finished_wordpiece(tokenizer, specials)


def _bpe(config: TokenizerConfig, specials: list[str]) -> tuple[Tokenizer, Any]:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    _leave_room(config, len(specials) + 256)
    tokenizer = Tokenizer(models.BPE())
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in (DIGITS, IDEOGRAPHS, WORDS)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=config.max_token_characters,
        show_progress=False,
    )
    return tokenizer, trainer


def _wordpiece(config: TokenizerConfig, specials: list[str], texts: Stream) -> tuple[Tokenizer, Any]:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    _leave_room(config, len(specials) + 2)
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN, max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=config.lowercase, lowercase=config.lowercase
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=INSIDE)
    # A character may begin a word and stand inside one: two tokens. Rare ones must not fill the whole vocabulary.
    letters, inside = _letters(tokenizer, texts, limit=(config.vocab_size - len(specials)) // 2)
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        # The trainer would number the pieces ##x in the order of a hash map, another one in each process, and break ties
        # by these numbers; named beforehand they have fixed ones.
        special_tokens=[*specials, *inside],
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        continuing_subword_prefix=INSIDE,
        show_progress=False,
    )
    return tokenizer, trainer


def _letters(tokenizer: Tokenizer, texts: Stream, limit: int) -> tuple[list[str], list[str]]:
    """The most frequent characters, and the pieces ``##x`` of those that stand inside words; both sorted."""
    counts, inner = Counter[str](), set[str]()
    for text in track(texts(), "counting characters", unit="texts"):
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text)):
            counts.update(word)
            inner.update(word[1:])
    kept = sorted(sorted(counts, key=lambda c: (-counts[c], c))[:limit])
    return kept, [INSIDE + letter for letter in kept if letter in inner]


def _finished_wordpiece(tokenizer: Tokenizer, specials: list[str]) -> Tokenizer:
    """``[CLS] text [SEP]``; the pieces ``##x`` are ordinary tokens again."""
    from tokenizers import Tokenizer, processors

    made = json.loads(tokenizer.to_str())
    made["added_tokens"] = [token for token in made["added_tokens"] if token["content"] in specials]
    tokenizer = Tokenizer.from_str(json.dumps(made))
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return tokenizer


def _leave_room(config: TokenizerConfig, taken: int) -> None:
    if taken >= config.vocab_size:
        raise ConfigError(
            f"{taken:,} special tokens and bytes leave nothing of {config.vocab_size:,} to learn",
            where="tokenizer.vocab_size",
            hint="make it larger",
        )


def save(tokenizer: Tokenizer, config: TokenizerConfig, out: RunDir) -> None:
    """tokenizer.json, tokenizer_config.json and special_tokens_map.json, as ``AutoTokenizer`` wants them."""
    named = named_tokens(config)
    others = [token for token in special_tokens(config) if token not in named.values()]
    facts: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **named,
        **({"additional_special_tokens": others} if others else {}),
    }
    if text := template(config):
        facts["chat_template"] = text
    out.write_text(TOKENIZER, json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, indent=1) + "\n")
    out.write_json("tokenizer_config.json", facts)
    out.write_json("special_tokens_map.json", {**named, **({"additional_special_tokens": others} if others else {})})
