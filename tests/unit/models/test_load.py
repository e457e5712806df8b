from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny import ARCHS, tiny_tokenizer, write_llama_gguf
from tuneloop.errors import MissingExtraError, ModelError
from tuneloop.models import load_model, load_tokenizer, open_bundle, quiet, save_adapter_bundle

torch = pytest.importorskip("torch")
IDS = torch.tensor([[5, 9, 200, 31, 7]])


@pytest.fixture
def base(tiny: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny("qwen2", "chatml"), tmp_path / "base"))


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    with quiet():
        model = peft.get_peft_model(
            load_model(base), peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
        )
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return save_adapter_bundle(tmp_path / "adapter", model, load_tokenizer(base), base, {}).path


@pytest.mark.parametrize("arch", ARCHS)
def test_every_architecture_loads_in_evaluation_mode(arch: str, tiny: Callable[..., Path]) -> None:
    model = load_model(tiny(arch, "chatml"), device="cpu")
    assert (model.dtype, model.training) == (torch.float32, False)
    assert torch.isfinite(model(IDS).logits).all()


def test_what_was_saved_is_what_is_loaded(tiny: Callable[..., Path]) -> None:
    from tests.tiny import tiny_model

    folder = tiny("llama", "llama3")
    expected = tiny_model("llama", vocab_size=len(load_tokenizer(folder)))
    assert torch.equal(load_model(folder)(IDS).logits, expected(IDS).logits)


def test_merged_and_unmerged_adapter_agree_and_differ_from_the_base(adapter: Path, base: Path) -> None:
    merged, apart, plain = load_model(adapter), load_model(adapter, merge=False), load_model(base)
    assert type(apart).__name__ == "PeftModelForCausalLM"
    assert type(merged).__name__ == "Qwen2ForCausalLM"
    torch.testing.assert_close(merged(IDS).logits, apart(IDS).logits, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(merged(IDS).logits, plain(IDS).logits, atol=1e-3)


def test_an_unmerged_adapter_can_be_trained_on(adapter: Path) -> None:
    trained = [n for n, p in load_model(adapter, merge=False).named_parameters() if p.requires_grad]
    assert trained
    assert all("lora" in n for n in trained)


def test_an_adapter_for_other_shapes_is_refused(adapter: Path, tiny: Callable[..., Path], base: Path) -> None:
    shutil.rmtree(base)
    shutil.copytree(tiny("qwen2", "chatml", hidden=32), base)
    with pytest.raises(ModelError, match="does not fit its base"):
        load_model(adapter)


def test_missing_weights_are_an_error_and_not_random_numbers(base: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(base / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing \(model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(base)


@pytest.mark.parametrize(
    ("name", "content"),
    [("model.safetensors", b"broken"), ("config.json", b"{}"), ("config.json", b'{"model_type": "no-such-model"}')],
)
def test_a_broken_folder_is_two_lines(base: Path, name: str, content: bytes) -> None:
    (base / name).write_bytes(content)
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        load_model(base)
    assert len(str(caught.value).splitlines()) == 2


def test_remote_code_is_never_run(base: Path) -> None:
    marker = base / "ran"
    (base / "modeling_x.py").write_text(f"open({str(marker)!r}, 'w')\n")
    config = '{"model_type": "x", "auto_map": {"AutoConfig": "modeling_x.C", "AutoModelForCausalLM": "modeling_x.M"}}'
    (base / "config.json").write_text(config)
    with pytest.raises(ModelError):
        load_model(base)
    assert not marker.exists()


def test_float16_is_refused_where_it_overflows(tiny: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="qwen2 overflows float16"):
        load_model(tiny("qwen2", "chatml"), dtype="float16")
    assert load_model(tiny("llama", "llama3"), dtype="float16").dtype == torch.float16
    assert load_model(tiny("qwen2", "chatml"), dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(ModelError, match="'int4' is unknown"):
        load_model(tiny("llama", "llama3"), dtype="int4")


def test_the_tokenizer_is_the_one_of_the_file(base: Path) -> None:
    text = "Don't 12345 我的卡  丢了\n\n"
    wanted = tiny_tokenizer("chatml")(text)["input_ids"]
    assert load_tokenizer(base)(text)["input_ids"] == wanted
    # DeepSeek's configurations name LlamaTokenizerFast although their tokenizer.json is byte-level.
    config = (base / "tokenizer_config.json").read_text()
    (base / "tokenizer_config.json").write_text(config.replace("TokenizersBackend", "LlamaTokenizerFast"))
    assert "LlamaTokenizerFast" in (base / "tokenizer_config.json").read_text()
    assert load_tokenizer(base)(text)["input_ids"] == wanted


def test_an_adapter_without_a_tokenizer_has_its_bases(adapter: Path) -> None:
    (adapter / "tokenizer.json").unlink()
    (adapter / "tokenizer_config.json").unlink()
    assert len(load_tokenizer(adapter)) == len(tiny_tokenizer("chatml"))


def test_no_tokenizer_is_an_error(base: Path) -> None:
    for file in base.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="tokenizer cannot be loaded"):
        load_tokenizer(base)


def test_loading_is_silent(base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_model(base)
    load_tokenizer(base)
    assert capfd.readouterr() == ("", "")


def test_a_gguf_folder_is_dequantised(tiny: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    write_llama_gguf(tiny("llama", "llama3"), tmp_path / "toy.F32.gguf")
    model = load_model(open_bundle(tmp_path))
    assert not hasattr(model.config, "quantization_config")
    reference = load_model(tiny("llama", "llama3"))
    torch.testing.assert_close(model(IDS).logits, reference(IDS).logits, atol=1e-4, rtol=1e-4)
    model.save_pretrained(tmp_path / "again")  # refused by transformers while it counts as quantised
    assert (tmp_path / "again" / "model.safetensors").is_file()


def test_without_torch_the_extra_is_named(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"tuneloop\[train\]"):
        load_model(base)


def test_an_encoder_decoder_is_named_as_one(tmp_path: Path) -> None:
    import transformers as hf

    config = hf.T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    hf.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="t5 is an encoder-decoder model"):
        load_model(tmp_path)
