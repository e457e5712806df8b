"""The first thing that runs on a new machine. A package index is played by a server on this machine."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "bootstrap.py"
WHEEL = b"not really a wheel"
GOOD = hashlib.sha256(WHEEL).hexdigest()
OTHER = "0" * 64


@pytest.fixture
def bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page_json(*files: tuple[str, str, bool]) -> bytes:
    listed = [{"url": url, "hashes": {"sha256": digest}, "yanked": yanked} for url, digest, yanked in files]
    return json.dumps({"meta": {"api-version": "1.0"}, "files": listed}).encode()


def page_html(*files: tuple[str, str, bool]) -> bytes:
    lines = [
        f'<a href="{url}#sha256={digest}"{" data-yanked=bad" if yanked else ""}>{url}</a><br>'
        for url, digest, yanked in files
    ]
    return ("<!doctype html><body>\n" + "\n".join(lines) + "</body>").encode()


@pytest.mark.parametrize("page", [page_json, page_html])
def test_the_newest_final_wheel_is_chosen(bootstrap: ModuleType, page: object) -> None:
    listed = page(  # type: ignore[operator]
        ("../../files/pip-9.0.3-py3-none-any.whl", OTHER, False),
        ("../../files/pip-25.10-py3-none-any.whl", GOOD, False),
        ("../../files/pip-25.9.1-py3-none-any.whl", OTHER, False),
        ("../../files/pip-26.0-py3-none-any.whl", OTHER, True),
        ("../../files/pip-26.0b1-py3-none-any.whl", OTHER, False),
        ("../../files/pip-30.tar.gz", OTHER, False),
    )
    found = bootstrap.newest_wheel(listed, "https://index.example/simple/pip/")
    assert found == ("https://index.example/files/pip-25.10-py3-none-any.whl", GOOD)


def test_a_wheel_without_a_hash_is_not_taken(bootstrap: ModuleType) -> None:
    page = json.dumps({"files": [{"url": "/pip-25.0-py3-none-any.whl", "hashes": {}}]}).encode()
    with pytest.raises(bootstrap.BootstrapError, match="SHA-256"):
        bootstrap.newest_wheel(page, "https://index.example/simple/pip/")


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """Path -> answer; PIP_INDEX_URL points to it."""
    answers: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path)
            self.send_response(200 if found is not None else 404)
            self.end_headers()
            self.wfile.write(found or b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield answers
    server.shutdown()
    server.server_close()
    thread.join()


def test_pip_comes_from_the_configured_index(
    bootstrap: ModuleType, index: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    index["/simple/pip/"] = page_html(("/files/pip-25.1-py3-none-any.whl", GOOD, False))
    index["/files/pip-25.1-py3-none-any.whl"] = WHEEL
    installed = []
    monkeypatch.setattr(bootstrap, "install_wheel", lambda _, wheel: installed.append((wheel.name, wheel.read_bytes())))
    bootstrap.pip_from_index(Path("python"))
    assert installed == [("pip-25.1-py3-none-any.whl", WHEEL)]


def test_a_wheel_with_another_hash_is_refused(
    bootstrap: ModuleType, index: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    index["/simple/pip/"] = page_json(("/files/pip-25.1-py3-none-any.whl", OTHER, False))
    index["/files/pip-25.1-py3-none-any.whl"] = WHEEL
    monkeypatch.setattr(bootstrap, "install_wheel", lambda *_: pytest.fail("it was installed"))
    with pytest.raises(bootstrap.BootstrapError, match="SHA-256"):
        bootstrap.pip_from_index(Path("python"))


def test_an_index_that_does_not_answer_is_named(bootstrap: ModuleType, index: dict[str, bytes]) -> None:
    with pytest.raises(bootstrap.BootstrapError, match=r"/simple/pip/: .*404"):
        bootstrap.pip_from_index(Path("python"))


def test_the_next_way_is_tried_and_the_last_error_says_all(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(reason: str) -> object:
        def way(_: Path) -> None:
            raise bootstrap.BootstrapError(f"{reason}\nhint: no")

        return way

    for way in ("ensurepip", "system", "index", "debian"):
        monkeypatch.setattr(bootstrap, f"pip_from_{way}", fails(f"no {way}"))
    with pytest.raises(bootstrap.BootstrapError) as caught:
        bootstrap.get_pip(Path("python"))
    first, hint = str(caught.value).splitlines()
    assert all(f"no {way}" in first for way in ("ensurepip", "system", "index", "debian"))
    assert hint.startswith("hint: ")
    monkeypatch.setattr(bootstrap, "pip_from_debian", lambda _: None)
    bootstrap.get_pip(Path("python"))


@pytest.mark.parametrize("version", [(3, 10, 9), (3, 8, 0)])
def test_an_old_python_is_refused_in_two_lines(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...]
) -> None:
    monkeypatch.setattr(bootstrap.sys, "version_info", version)
    with pytest.raises(bootstrap.BootstrapError, match=r"too old.*\nhint: ") as caught:
        bootstrap.check_python()
    assert len(str(caught.value).splitlines()) == 2


def test_an_up_to_date_environment_is_left_alone(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "CONSTRAINTS", tmp_path / "constraints.txt")
    monkeypatch.setattr(bootstrap, "STAMP", tmp_path / "stamp")
    monkeypatch.setattr(bootstrap, "PYTHON", Path(sys.executable))
    made = []
    monkeypatch.setattr(bootstrap, "make_environment", made.append)
    monkeypatch.setattr(bootstrap, "pip", lambda *_: None)
    monkeypatch.setattr(bootstrap, "torch_requirement", lambda: "torch")
    bootstrap.install(bootstrap.DEMO)
    bootstrap.install(bootstrap.DEMO)
    assert len(made) == 1
    (tmp_path / "constraints.txt").write_text("another version")
    bootstrap.install(bootstrap.DEMO)
    assert len(made) == 2
    bootstrap.install(bootstrap.TESTS)
    assert len(made) == 3
    bootstrap.install(bootstrap.DEMO)
    assert len(made) == 3, "what the tests need is more than what the demo needs"


def test_constraints_pin_one_version_each_and_torch_without_a_local_tag() -> None:
    lines = (SCRIPT.parents[1] / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    names = [pin.partition("==")[0].lower() for pin in pins]
    assert names == sorted(set(names))
    assert all("==" in pin and "+" not in pin and "/" not in pin for pin in pins)
    assert {"torch", "transformers", "typer", "pytest"} <= set(names)


def test_it_runs_on_the_standard_library_alone() -> None:
    code = f"import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='not main')"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
