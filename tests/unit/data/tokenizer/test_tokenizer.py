"""Training, saving, measuring a tokenizer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tuneloop.config import build
from tuneloop.data import TokenizerConfig, train_tokenizer
from tuneloop.data.tokenizer import input_hashes, load
from tuneloop.data.tokenizer.measure import language, measure, sample
from tuneloop.data.tokenizer.measure import load as load_file
from tuneloop.data.tokenizer.texts import Texts
from tuneloop.data.tokenizer.train import special_tokens, train
from tuneloop.errors import ConfigError, DataError
from tuneloop.rundir import RunDir

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

SHARED = Path(__file__).parents[5] / "shared" / "data"
ENGLISH = "The transfer has not arrived in my account yet, and I was charged twice for it."
CHINESE = "我的银行卡丢了，请尽快帮我挂失。请问为什么同一笔转账扣了我两次钱？"
AWKWARD = [
    "",
    " ",
    "  two  spaces ",
    "line\r\nbreak\n\n\tTab",
    "12345,678",
    "naïve café",
    "👩‍👩‍👧 😀",
    "混合 mixed 文本 text。",
    "\u0000\u200b",
]


def some(n: int = 400) -> list[str]:
    return [f"{ENGLISH} Number {i}." if i % 2 else f"{CHINESE}第{i}条" for i in range(n)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = [json.dumps({"prompt": text, "response": f"yes {i}"}, ensure_ascii=False) for i, text in enumerate(some())]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def made(folder: Path, **more: Any) -> tuple[Any, RunDir]:
    config = TokenizerConfig(**{"sources": [folder / "rows.jsonl"], "vocab_size": 500, **more})
    out = RunDir(folder / "out")
    return train_tokenizer(config, out), out


@pytest.mark.parametrize("text", [ENGLISH, CHINESE, *AWKWARD])
def test_bpe_gives_back_every_text(folder: Path, text: str) -> None:
    found, _ = made(folder)
    tokenizer = load_file(found.folder)
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("model", ["bpe", "wordpiece"])
def test_transformers_loads_it_and_gives_the_same_ids(folder: Path, model: str) -> None:
    found, _ = made(folder, model=model, chat_template="chatml" if model == "bpe" else None)
    own = load_file(found.folder)
    theirs = transformers.AutoTokenizer.from_pretrained(found.folder, local_files_only=True)
    for text in [*some(40), *AWKWARD, "<|im_start|>user", "[MASK] ##a"]:
        assert theirs(text)["input_ids"] == own.encode(text).ids
    assert len(theirs) == found.vocab_size


def test_the_chat_template_and_its_markers_are_saved(folder: Path) -> None:
    found, _ = made(folder, chat_template="chatml")
    tokenizer = transformers.AutoTokenizer.from_pretrained(found.folder, local_files_only=True)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert len(tokenizer("<|im_start|><|im_end|>")["input_ids"]) == 2
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|pad|>")


def test_markers_of_a_template_file_become_special_tokens(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("{{ '<｜User｜>' + messages[0]['content'] + '<｜Assistant｜><think>' }}")
    config = TokenizerConfig(chat_template=tmp_path / "t.jinja", special_tokens=("<tool>", "<think>"))
    assert special_tokens(config) == ["<|endoftext|>", "<|pad|>", "<｜User｜>", "<｜Assistant｜>", "<think>", "<tool>"]


def test_special_tokens_have_the_first_ids_and_are_never_cut(folder: Path) -> None:
    found, _ = made(folder, special_tokens=("<tool>",))
    tokenizer = load_file(found.folder)
    assert [tokenizer.token_to_id(t) for t in ("<|endoftext|>", "<|pad|>", "<tool>")] == [0, 1, 2]
    assert tokenizer.encode("a<tool>b").tokens == ["a", "<tool>", "b"]


def test_wordpiece_frames_a_text_and_marks_the_inside_of_words(folder: Path) -> None:
    found, _ = made(folder, model="wordpiece")
    tokens = load_file(found.folder).encode("wasted transfer").tokens
    assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]")
    assert any(token.startswith("##") for token in tokens)


def test_wordpiece_does_not_let_rare_characters_overfill_the_vocabulary(tmp_path: Path) -> None:
    characters = "".join(chr(0x4E00 + k) for k in range(3000))
    config = TokenizerConfig(model="wordpiece", vocab_size=300, sources=[tmp_path])
    tokenizer = train(config, lambda: [characters, "人人人人"])
    assert tokenizer.get_vocab_size() <= 300
    assert tokenizer.encode("人").tokens[1:-1] == ["人"]


def test_pieces_of_wordpiece_are_not_special(folder: Path) -> None:
    found, _ = made(folder, model="wordpiece")
    names = {t["content"] for t in json.loads((found.folder / "tokenizer.json").read_text())["added_tokens"]}
    assert names == {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}


def test_digits_are_cut_by_three_and_ideographs_from_letters(folder: Path) -> None:
    tokenizer = load_file(made(folder)[0].folder)
    pieces = [text for text, _ in tokenizer.pre_tokenizer.pre_tokenize_str("卡123456号abc")]
    assert [tokenizer.decoder.decode([p]) for p in pieces] == ["卡", "123", "456", "号", "abc"]


@pytest.mark.parametrize("model", ["bpe", "wordpiece"])
def test_the_same_text_gives_the_same_bytes_in_every_process(folder: Path, model: str) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from tuneloop.data import TokenizerConfig, train_tokenizer\n"
        "from tuneloop.rundir import RunDir\n"
        f"c = TokenizerConfig(sources=[sys.argv[1]], vocab_size=500, model={model!r})\n"
        "train_tokenizer(c, RunDir(Path(sys.argv[2])))\n"
    )
    outs = []
    for k in range(2):
        out = folder / f"out{k}"
        environment = os.environ | {"PYTHONHASHSEED": str(k), "RAYON_NUM_THREADS": str(k + 1)}
        subprocess.run([sys.executable, "-c", code, str(folder / "rows.jsonl"), str(out)], check=True, env=environment)
        outs.append({file.name: file.read_bytes() for file in out.iterdir()})
    assert outs[0] == outs[1]
    assert set(outs[0]) == {
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer_report.json", "report.html",
    }  # fmt: skip


def test_texts_are_read_one_after_the_other(tmp_path: Path) -> None:
    alive = 0

    class Tracked(str):
        def __new__(cls, text: str) -> Tracked:
            nonlocal alive
            alive += 1
            return super().__new__(cls, text)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    most = 0

    def stream() -> Iterator[str]:
        nonlocal most
        for k in range(20_000):
            yield Tracked(f"{ENGLISH} {k}")
            most = max(most, alive)

    train(TokenizerConfig(vocab_size=400, sources=[tmp_path]), stream)
    assert most < 2_000  # the trainer takes them in batches


def test_every_twentieth_text_is_measured_and_not_learned(folder: Path) -> None:
    texts = Texts(TokenizerConfig(sources=[folder / "rows.jsonl"]))
    learned, measured = list(texts.training()), list(texts.held_out())
    assert len(learned) + len(measured) == 800  # a prompt and a response a row
    assert len(measured) == 40
    assert not set(learned) & set(measured)


def test_a_finished_data_stage_is_read_by_its_splits_and_a_system_prompt_once(tmp_path: Path) -> None:
    from tuneloop.data import DataConfig, run

    rows = "".join(f'"question number {i} of {chr(97 + i % 26) * 9}{i}",{"xy"[i % 2]}\n' for i in range(60))
    (tmp_path / "a.csv").write_text("message,intent\n" + rows)
    config = DataConfig(sources=tmp_path / "a.csv", system="You are a bank.", steps=())
    counts = run(config, RunDir(tmp_path / "data")).counts
    texts = Texts(TokenizerConfig(sources=[tmp_path / "data"]))
    assert len(list(texts.training())) == 2 * counts["train"] + 1
    assert len(list(texts.held_out())) == 2 * counts["validation"] + 1
    assert set(texts.input_hashes()) == {"data/train.jsonl", "data/validation.jsonl"}


def test_a_damaged_data_stage_is_an_error_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "train.jsonl").write_text('{"id": "a", "messages": []}\n{"id": 5\n')
    with pytest.raises(DataError) as caught:
        list(Texts(TokenizerConfig(sources=[tmp_path])).training())
    assert caught.value.where == f"{tmp_path / 'train.jsonl'}:2"


def test_rows_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    lines = [json.dumps({"text": t}, ensure_ascii=False) for t in some(60)]
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines[:30], "{broken", *lines[30:]]), encoding="utf-8")
    found, _ = made(tmp_path)
    assert found.facts["unreadable_rows"] == 1
    assert "1 rows could not be read and were left out" in found.facts["notes"]


def test_too_little_text_for_the_vocabulary_is_said(folder: Path) -> None:
    found, _ = made(folder, vocab_size=30_000)
    assert found.vocab_size < 30_000
    assert found.facts["notes"][0].startswith("30,000 tokens were asked for and the text gives ")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (ENGLISH, "Latin script"), (CHINESE, "Chinese"), ("これは日本語の文章です", "Japanese"), ("안녕하세요", "Korean"),
        ("Привет, мир", "Cyrillic script"), ("12 + 30 = 42", "other"), ("请用 Python 写一个快速排序函数", "Chinese"),
    ],
)  # fmt: skip
def test_the_language_is_told_by_the_script(text: str, name: str) -> None:
    assert language(text) == name


def test_fertility_coverage_and_compression_by_hand() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "my": 1, "card": 2, "##s": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    (fit,) = measure(tokenizer, {"Latin script": ["my cards", "my fee"]}).fits
    # my card ##s / my [UNK]: five tokens for four words; three of fourteen characters are unknown
    assert (fit.tokens, fit.unit, fit.fertility) == (5, "word", 1.25)
    assert fit.bytes_per_token == 14 / 5
    assert fit.unknown == 1 / 5
    assert fit.covered == 11 / 14


def test_a_character_cut_into_bytes_is_not_covered() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {c: k for k, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    (fit,) = measure(tokenizer, {"Chinese": ["a卡b"]}).fits
    assert (fit.tokens, fit.fertility, fit.exact) == (5, 5 / 3, 1.0)
    assert fit.covered == 2 / 3


def test_each_language_is_measured_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuneloop.data.tokenizer.measure.MEASURED_CHARACTERS", 100)
    found = sample([ENGLISH] * 50 + [CHINESE] * 50)
    assert {name: len(texts) for name, texts in found.items()} == {"Latin script": 2, "Chinese": 4}


def test_another_tokenizer_stands_beside_it(folder: Path) -> None:
    first, _ = made(folder)
    (folder / "base").mkdir()
    (folder / "base" / "tokenizer.json").write_bytes((first.folder / "tokenizer.json").read_bytes())
    second, out = made(folder, compare_with=folder / "base", vocab_size=400)
    base = second.facts["compared_with"]
    assert base["vocab_size"] == first.vocab_size
    assert base["fits"] == first.facts["tokenizer"]["fits"]
    assert "more tokens than base" in (out / "report.html").read_text(encoding="utf-8")
    assert load(out).facts == second.facts


def test_a_tokenizer_inside_an_installed_package_is_found_without_running_it(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "some_tokenizer"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('run')")
    (package / "tokenizer.json").write_bytes((made(folder)[0].folder / "tokenizer.json").read_bytes())
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert load_file(tmp_path / "some_tokenizer").get_vocab_size() == 500


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lowercase=true", "lowercase needs the wordpiece model"),
        ("vocab_size=100", "vocab_size"),
        ("pad_token=<|endoftext|>", None),
        ("eos_token=<e>", None),
    ],
)
def test_settings_that_cannot_be_are_refused(setting: str, message: str | None) -> None:
    tree = {"eos_token": "<|endoftext|>"} if setting.startswith("pad") else {"pad_token": "<e>"}
    with pytest.raises(ConfigError, match=message or "would not learn to stop"):
        build(TokenizerConfig, tree, [setting])


def test_a_vocabulary_that_special_tokens_fill_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="leave nothing of 258 to learn"):
        made(folder, vocab_size=258)


def test_no_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text to learn from"):
        train(TokenizerConfig(sources=[tmp_path]), list)
    with pytest.raises(DataError, match="no text is named"):
        input_hashes(TokenizerConfig())


@pytest.mark.parametrize("content", [None, "{}"])
def test_a_broken_or_missing_tokenizer_to_compare_with_is_an_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataError) as caught:
        load_file(tmp_path)
    assert caught.value.hint


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
def test_on_real_text_words_and_characters_are_joined_and_come_back(tmp_path: Path) -> None:
    config = TokenizerConfig(sources=[SHARED / "corpus", SHARED / "medical_zh"], vocab_size=8000)
    found = train_tokenizer(config, RunDir(tmp_path))
    english, chinese = found.facts["tokenizer"]["fits"]
    assert (english["language"], chinese["language"]) == ("Latin script", "Chinese")
    # bytes alone would give about 6 tokens a word and 3 a character
    assert 1.0 < english["fertility"] < 1.9
    assert 0.4 < chinese["fertility"] < 0.8
    assert english["exact"] == chinese["exact"] == 1.0
    assert english["unknown"] == chinese["unknown"] == 0.0
    own = load_file(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    texts = list(Texts(config).held_out())[:200]
    assert theirs(texts)["input_ids"] == [e.ids for e in own.encode_batch(texts)]
