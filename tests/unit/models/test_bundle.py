from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tuneloop.chat import Chat
from tuneloop.errors import ModelError, ResourceError
from tuneloop.models import (
    MANIFEST,
    Bundle,
    fingerprint,
    load_model,
    load_tokenizer,
    open_bundle,
    quiet,
    save_adapter_bundle,
    save_model_bundle,
    seal,
    staging,
    verify,
)

FACTS = {"name": "toy", "licence": "apache-2.0", "data_sha256": "ab" * 32, "metrics": {"loss": 1.5}}


@pytest.fixture
def plain(tiny: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny("llama", "llama3"), tmp_path / "plain"))


@pytest.fixture
def saved(plain: Path, tmp_path: Path) -> Bundle:
    return save_model_bundle(tmp_path / "saved", load_model(plain), load_tokenizer(plain), FACTS, base=plain)


@pytest.fixture
def adapter(plain: Path, tmp_path: Path) -> Bundle:
    peft = pytest.importorskip("peft")
    with quiet():
        model = peft.get_peft_model(load_model(plain), peft.LoraConfig(r=2, target_modules="all-linear"))
    return save_adapter_bundle(tmp_path / "adapter", model, load_tokenizer(plain), plain, FACTS)


def test_a_saved_bundle_describes_itself(saved: Bundle, plain: Path) -> None:
    assert (saved.kind, saved.precision, saved.name, saved.base) == ("model", "float32", "toy", None)
    manifest = json.loads((saved.path / MANIFEST).read_text())
    assert manifest["format"] == 1
    assert manifest["facts"] == FACTS
    assert manifest["base"] == {"name": "plain", "path": str(plain.resolve()), "fingerprint": fingerprint(plain)}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(manifest["files"])
    assert not any(name in manifest["files"] for name in (MANIFEST, "README.md"))
    assert manifest["template_sha256"] == Chat(load_tokenizer(saved)).template_hash
    verify(saved)


def test_the_card_says_what_the_manifest_says(saved: Bundle) -> None:
    card = (saved.path / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "# toy" in card
    assert "| made from | plain" in card
    assert '| metrics | {"loss": 1.5} |' in card


def test_the_version_is_of_the_content(saved: Bundle, plain: Path, tmp_path: Path) -> None:
    again = save_model_bundle(tmp_path / "again", load_model(plain), load_tokenizer(plain), {"name": "other"})
    assert len(saved.version) == 12
    assert again.version == saved.version
    other = load_model(plain)
    other.get_input_embeddings().weight.data[0, 0] += 1
    assert save_model_bundle(tmp_path / "other", other, load_tokenizer(plain), FACTS).version != saved.version


@pytest.mark.parametrize("change", ["flip", "cut", "delete"])
def test_a_damaged_file_is_found(saved: Bundle, change: str) -> None:
    file = saved.path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    {"flip": lambda: file.write_bytes(data), "cut": lambda: file.write_bytes(data[:-1]), "delete": file.unlink}[
        change
    ]()
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        verify(open_bundle(saved.path))


def test_an_adapter_knows_its_base(adapter: Bundle, plain: Path) -> None:
    assert (adapter.kind, adapter.base, adapter.precision) == ("adapter", plain.resolve(), "float32")
    assert json.loads((adapter.path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(plain)
    assert not (adapter.path / "model.safetensors").exists()
    verify(adapter)


def test_an_adapter_over_another_base_is_refused(adapter: Bundle, plain: Path) -> None:
    changed = (plain / "model.safetensors").read_bytes()[:-4] + b"\x00\x00\x80\x40"
    (plain / "model.safetensors").write_bytes(changed)
    with pytest.raises(ModelError, match="trained on another model"):
        verify(adapter)


def test_an_adapter_without_its_base_is_refused(adapter: Bundle, plain: Path) -> None:
    shutil.rmtree(plain)
    lonely = open_bundle(adapter.path)
    assert lonely.base is None
    for use in (verify, load_model):
        with pytest.raises(ModelError, match=r"below this adapter \(plain\) is not at"):
            use(lonely)


def test_a_base_that_moved_into_the_model_cache_is_found(
    adapter: Bundle, plain: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TUNELOOP_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "models").mkdir(parents=True)
    moved = plain.rename(tmp_path / "home" / "models" / "plain")
    found = open_bundle(adapter.path)
    assert found.base == moved
    verify(found)


def test_a_peft_folder_without_a_manifest_is_an_adapter(adapter: Bundle, plain: Path) -> None:
    (adapter.path / MANIFEST).unlink()
    found = open_bundle(adapter.path)
    assert (found.kind, found.base, dict(found.manifest)) == ("adapter", plain, {})


def test_a_plain_folder_is_a_bundle_without_a_manifest(plain: Path) -> None:
    bundle = open_bundle(plain)
    assert (bundle.kind, bundle.precision, bundle.name) == ("model", "float32", "plain")
    assert bundle.version == fingerprint(plain)[:12]
    verify(bundle)


def test_gguf_takes_its_precision_from_the_seal_or_the_name(tmp_path: Path) -> None:
    (tmp_path / "model.Q4_1.gguf").write_bytes(b"GGUF")
    assert open_bundle(tmp_path).precision == "q4_1"
    assert seal(tmp_path, "gguf", FACTS, precision="q8_0").precision == "q8_0"
    assert open_bundle(tmp_path).gguf_file.name == "model.Q4_1.gguf"
    (tmp_path / "second.gguf").touch()
    with pytest.raises(ModelError, match=r"2 \.gguf files"):
        _ = open_bundle(tmp_path).gguf_file


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no model"),
        ({"config.json": "{}", "pytorch_model.bin": "x"}, "pickles"),
        ({MANIFEST: '{"format": 99, "kind": "model"}'}, "format 99"),
        ({MANIFEST: "{"}, "cannot be read"),
        ({MANIFEST: "[]"}, "not a JSON object"),
    ],
)
def test_what_is_no_bundle_is_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ModelError, match=message) as caught:
        open_bundle(tmp_path)
    assert len(str(caught.value).splitlines()) == 2


def test_a_missing_folder_and_a_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        open_bundle(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(ModelError) as caught:
        open_bundle(tmp_path / "file")
    assert "give the folder" in (caught.value.hint or "")


def test_staging_replaces_all_or_nothing(tmp_path: Path) -> None:
    target = tmp_path / "t"
    with staging(target) as folder:
        (folder / "a").write_text("1")
    with pytest.raises(FileNotFoundError, match="lost"), staging(target) as folder:
        shutil.copy(tmp_path / "lost", folder)
    assert (target / "a").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),  # safetensors
    ],
)
def test_a_full_disk_is_said_in_two_lines(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(ResourceError, match="the disk is full"), staging(tmp_path / "t"):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_the_fingerprint_sees_names_sizes_and_content(plain: Path) -> None:
    before = fingerprint(plain)
    (plain / "README.md").write_text("a card is not the model")
    assert fingerprint(plain) == before
    (plain / "config.json").write_text("{}")
    assert fingerprint(plain) != before


def test_a_large_weight_file_is_sampled_at_both_ends(tmp_path: Path) -> None:
    blob = bytearray(5 << 20)
    seen = set()
    for at in (None, 0, len(blob) - 1):
        if at is not None:
            blob[at] ^= 255
        (tmp_path / "model.safetensors").write_bytes(blob)
        seen.add(fingerprint(tmp_path))
    assert len(seen) == 3
