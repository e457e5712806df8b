"""What the LoRA family adapts, refuses and says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.tiny import tiny_folder, tiny_model
from tuneloop.errors import ConfigError, ModelError
from tuneloop.models import load_model, merge_adapter
from tuneloop.train import LoraConfig, TrainConfig
from tuneloop.train.config import StageConfig
from tuneloop.train.methods import METHODS, four_bit, learning_rate_scale
from tuneloop.train.methods.targets import coverage, resolve_targets
from tuneloop.train.optimise import build_optimizer, trained_parameters

MLA = {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"}
DENSE = {"gate_proj", "up_proj", "down_proj"}
EXPERTS = {"experts.gate_up_proj", "experts.down_proj"}


def tiny(arch: str = "deepseek_v3", **more: Any) -> Any:
    return tiny_model(arch, vocab_size=50, layers=2, **more)  # type: ignore[arg-type]


def adapt(model: Any, method: str = "lora", **lora: Any) -> Any:
    return METHODS[method](model, TrainConfig(method=method, lora=LoraConfig(**lora)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("targets", "modules", "parameters"),
    [("all-linear", MLA | DENSE, EXPERTS), ("attention", MLA, set()), ("mlp", DENSE, EXPERTS)],
)
def test_groups_of_deepseek(targets: str, modules: set[str], parameters: set[str]) -> None:
    found = resolve_targets(tiny(), LoraConfig(targets=targets))
    assert (set(found.modules), set(found.parameters)) == (modules, parameters)


@pytest.mark.parametrize(
    ("targets", "modules"),
    [("attention", {"q_proj", "k_proj", "v_proj", "o_proj"}), ("mlp", {"gate_proj", "up_proj", "down_proj"})],
)
def test_groups_of_llama(targets: str, modules: set[str]) -> None:
    assert set(resolve_targets(tiny("llama"), LoraConfig(targets=targets)).modules) == modules


def test_experts_can_be_left_out() -> None:
    assert resolve_targets(tiny(), LoraConfig(experts=False)).parameters == ()


def test_a_part_of_a_name_is_given_to_peft_in_full() -> None:
    """A last part alone would adapt every layer of that name."""
    found = resolve_targets(tiny("llama"), LoraConfig(targets=("layers.1.self_attn.q_proj",)))
    assert found.modules == ("model.layers.1.self_attn.q_proj",)


def test_adapters_on_the_last_layers_only_are_given_to_peft_in_full() -> None:
    """DeepSeek's first layer is dense, so the names of its mixture mean the last layer alone and stay short."""
    found = resolve_targets(tiny("llama"), LoraConfig(targets=("q_proj", "v_proj"), last_layers=1))
    assert set(found.modules) == {f"model.layers.1.self_attn.{n}" for n in ("q_proj", "v_proj")}
    mixture = resolve_targets(tiny(), LoraConfig(targets="mlp", last_layers=1))
    assert set(mixture.parameters) == EXPERTS
    assert set(mixture.modules) == {f"model.layers.1.mlp.shared_experts.{n}" for n in DENSE}


def test_experts_of_one_layer_are_given_to_peft_in_full() -> None:
    model = tiny_model("deepseek_v3", vocab_size=50, layers=3)
    found = resolve_targets(model, LoraConfig(targets="mlp", last_layers=1))
    assert set(found.parameters) == {f"model.layers.2.mlp.{n}" for n in EXPERTS}


def test_more_last_layers_than_there_are() -> None:
    with pytest.raises(ConfigError, match="the last 3 layers of a model that has 2"):
        resolve_targets(tiny(), LoraConfig(last_layers=3))


def test_a_name_of_both_means_the_linear_layers() -> None:
    found = resolve_targets(tiny(), LoraConfig(targets=("down_proj",)))
    assert (found.modules, found.parameters) == (("down_proj",), ())


def test_experts_can_be_named() -> None:
    found = resolve_targets(tiny(), LoraConfig(targets=("gate_up_proj",)))
    assert (found.modules, found.parameters) == ((), ("experts.gate_up_proj",))


@pytest.mark.parametrize("name", ["gate", "mlp.gate"])
def test_the_router_is_no_target(name: str) -> None:
    with pytest.raises(ConfigError, match="router stays as it is"):
        resolve_targets(tiny(), LoraConfig(targets=(name,)))


def test_what_exists_is_listed_with_the_experts() -> None:
    with pytest.raises(ConfigError) as error:
        resolve_targets(tiny(), LoraConfig(targets=("nothing",)))
    listed = (error.value.hint or "").removeprefix("this model has: ").split(", ")
    assert set(listed) == MLA | DENSE | EXPERTS | {"lm_head"}


def test_a_head_that_is_the_embedding_is_refused() -> None:
    with pytest.raises(ConfigError, match="lm_head is the embedding"):
        resolve_targets(tiny("llama", tie_word_embeddings=True), LoraConfig(targets=("lm_head",)))


def test_the_router_and_its_bias_stay_as_they_are() -> None:
    model = adapt(tiny())
    assert [n for n, p in model.named_parameters() if ".gate." in n and p.requires_grad] == []
    assert [n for n, _ in model.named_modules() if ".gate." in n] == []


def test_coverage_counts_weights_by_kind() -> None:
    """Llama, C = 64, I = 128, V = 50, two layers: attention 2 x (2 CC + 2 CC/2), mlp 2 x 3 CI, embeddings 2 VC, norms 5 C."""
    model = tiny("llama")
    attention, rest = 2 * 3 * 64 * 64, 2 * 3 * 64 * 128 + 2 * 50 * 64 + 5 * 64
    found = coverage(model, resolve_targets(model, LoraConfig(targets="attention")))
    assert found == {
        "the model": attention / (attention + rest), "attention": 1.0, "mlp": 0.0, "embeddings and head": 0.0,
    }  # fmt: skip


def test_coverage_is_printed_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    adapt(tiny(), experts=False)
    lines = [line for line in capsys.readouterr().err.splitlines() if "adapters:" in line]
    assert len(lines) == 1
    for part in ("100 % of attention", "100 % of mlp", "0 % of experts", "0 % of router", "0 % of embeddings and head"):
        assert part in lines[0]


def test_rslora_divides_by_the_root_of_the_rank() -> None:
    model = adapt(tiny(), "rslora", rank=16, alpha=32)
    scales = {m.scaling["default"] for m in model.modules() if hasattr(m, "lora_A")}
    assert scales == {32 / 4}


def test_dora_has_a_magnitude_for_every_output() -> None:
    model = adapt(tiny("llama"), "dora")
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    weight = layer.base_layer.weight
    torch.testing.assert_close(layer.lora_magnitude_vector["default"].weight, weight.norm(dim=1))


def test_dora_on_expert_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="attention of a mixture") as error:
        adapt(tiny(), "dora")
    assert "train.lora.targets=attention" in (error.value.hint or "")


def test_dora_on_the_shared_experts_is_refused() -> None:
    """Plain PEFT could not load it."""
    with pytest.raises(ConfigError, match="attention of a mixture"):
        adapt(tiny(), "dora", experts=False)


def test_dropout_on_routed_experts_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot have dropout"):
        adapt(tiny(), dropout=0.1)


def test_dropout_beside_routed_experts_works() -> None:
    model = adapt(tiny(), dropout=0.1, experts=False)
    assert any(isinstance(m, torch.nn.Dropout) and m.p == 0.1 for m in model.modules())


def test_lora_plus_gives_b_a_faster_rate() -> None:
    config = TrainConfig(method="lora+", lora=LoraConfig(plus_ratio=8))
    trained = trained_parameters(METHODS["lora+"](tiny(), config))
    groups = {g["scale"]: len(g["params"]) for g in build_optimizer(trained, config).param_groups}
    assert groups == {1.0: len(trained) // 2, 8.0: len(trained) // 2}


def test_only_lora_plus_scales_rates() -> None:
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight"
    assert learning_rate_scale(name, TrainConfig(method="lora")) == 1.0


def test_qlora_on_a_cpu_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="qlora needs an NVIDIA GPU") as error:
        four_bit(TrainConfig(method="qlora"))
    assert "method: lora" in (error.value.hint or "")


@pytest.mark.parametrize("methods", [("qlora", "full"), ("lora", "qlora")])
def test_qlora_beside_other_stages_is_refused(methods: tuple[Any, Any]) -> None:
    config = TrainConfig(method="staged", stages=tuple(StageConfig(method=m) for m in methods))
    with pytest.raises(ConfigError, match="nothing can be merged into 4-bit"):
        four_bit(config)


def test_other_methods_load_their_base_as_it_is() -> None:
    assert four_bit(TrainConfig(method="staged", stages=(StageConfig(method="full"), StageConfig()))) is False


def test_qlora_loads_nf4_with_double_quantisation_in_16_bit_arithmetic(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A stand-in for transformers' loader: there is no GPU here."""
    import transformers

    asked: dict[str, Any] = {}

    def loaded(path: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
        asked.update(options)
        return tiny("llama"), {}

    folder = tiny_folder("llama", "chatml", tmp_path)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", loaded)
    monkeypatch.setattr(transformers, "BitsAndBytesConfig", lambda **settings: SimpleNamespace(**settings))
    load_model(folder, dtype="bfloat16", device="cpu", four_bit=True)
    assert vars(asked["quantization_config"]) == {
        "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.bfloat16,
    }  # fmt: skip
    assert asked["device_map"] == {"": torch.device("cpu")}


def test_nothing_is_merged_into_4_bit() -> None:
    model = adapt(tiny("llama"))
    model.base_model.model.is_loaded_in_4bit = True
    with pytest.raises(ModelError, match="quantised base"):
        merge_adapter(model)


def test_merging_into_16_bit_rounds_once() -> None:
    torch.manual_seed(0)
    model = adapt(tiny("llama").to(torch.bfloat16))
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.1)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    exact = layer.base_layer.weight.float() + layer.scaling["default"] * (b.float() @ a.float())
    merged = merge_adapter(model).model.layers[0].self_attn.q_proj.weight
    assert merged.dtype == torch.bfloat16
    assert torch.equal(merged, exact.to(torch.bfloat16))


def gpt2() -> Any:
    import transformers as hf

    sizes = {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4}
    return hf.GPT2LMHeadModel(hf.GPT2Config(**sizes)).eval()


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_layers_of_gpt2_that_are_stored_the_other_way_round_take_adapters(method: Any) -> None:
    model = METHODS["lora"](gpt2(), TrainConfig(method=method))
    reached = {name.split(".lora_A")[0].rpartition(".")[2] for name, _ in model.named_parameters() if "lora_A" in name}
    assert reached == {"c_attn", "c_proj", "c_fc"}
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    ids = torch.tensor([[5, 9, 20, 31, 7]])
    before = model(ids).logits
    torch.testing.assert_close(merge_adapter(model)(ids).logits, before, rtol=1e-4, atol=1e-4)


def test_what_peft_refuses_names_what_there_is() -> None:
    import transformers as hf

    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 4}
    with pytest.raises(ConfigError, match=r"PEFT takes no adapters there: .*'out_proj'") as caught:
        METHODS["lora"](hf.MambaForCausalLM(hf.MambaConfig(**sizes)), TrainConfig())
    assert caught.value.hint == "name others; this model has: dt_proj, in_proj, out_proj, x_proj"
