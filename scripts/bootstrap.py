"""Make .venv and install the pinned dependencies. Standard library only: it runs before anything is installed.

Works without the python3-venv package (no ensurepip): pip's own wheel is fetched from the package index and installs
itself. Nothing is done when pyproject.toml, constraints.txt and the Python version are those of the last time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".tuneloop-installed"
TORCH = "torch==2.13.0"
EXTRAS = "all,dev"
DEFAULT_INDEX = "https://pypi.org/simple"


def main() -> None:
    if sys.version_info < (3, 11):
        sys.exit(f"error: Python {sys.version.split()[0]} is too old\nhint: install python3 3.11 or newer, then: make PYTHON=python3.11 demo")
    key = hashlib.sha256(
        b"\0".join([(ROOT / "pyproject.toml").read_bytes(), (ROOT / "constraints.txt").read_bytes(), sys.version.encode(), str(ROOT).encode()])
    ).hexdigest()
    if STAMP.exists() and STAMP.read_text() == key and PYTHON.exists():
        return
    say("creating .venv")
    make_venv()
    say(f"installing {TORCH} (on a machine without a GPU set TORCH_INDEX_URL to PyTorch's CPU wheel index to save 3 GB)")
    torch_index = os.environ.get("TORCH_INDEX_URL")
    pip("install", TORCH, *(["--index-url", torch_index] if torch_index else []))
    say("installing the pinned dependencies (constraints.txt)")
    pip("install", "-c", str(ROOT / "constraints.txt"), "-e", f"{ROOT}[{EXTRAS}]")
    STAMP.write_text(key)
    say("installed")


def say(text: str) -> None:
    print(f"bootstrap: {text}", file=sys.stderr, flush=True)


def make_venv() -> None:
    has_pip = importlib.util.find_spec("ensurepip") is not None
    if not PYTHON.exists():
        venv.create(VENV, with_pip=has_pip, symlinks=True, clear=VENV.exists())
    if subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True).returncode != 0:
        pip_without_ensurepip()


def pip(*arguments: str) -> None:
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", *arguments[:1], "--quiet", "--progress-bar", "off", *arguments[1:]]
    if subprocess.run(command, cwd=ROOT).returncode != 0:
        sys.exit(f"error: pip could not install {arguments[-1]}\nhint: check the network or set PIP_INDEX_URL to your mirror, then run make again")


def pip_without_ensurepip() -> None:
    """Fetch the newest pip wheel from the index, check its SHA-256, and let it install itself."""
    say("this Python has no ensurepip; fetching pip from the package index")
    page = index_url().rstrip("/") + "/pip/"
    request = urllib.request.Request(page, headers={"Accept": "application/vnd.pypi.simple.v1+json, text/html;q=0.5"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            body, kind = answer.read().decode(), answer.headers.get_content_type()
        url, digest = newest_wheel(body, kind, page)
        with urllib.request.urlopen(url, timeout=120) as answer:
            blob = answer.read()
    except OSError as error:
        sys.exit(f"error: pip cannot be fetched from {page}: {error}\nhint: apt-get install python3-venv, or set PIP_INDEX_URL to your mirror")
    if hashlib.sha256(blob).hexdigest() != digest:
        sys.exit(f"error: {url} does not have the SHA-256 that the index gives\nhint: try again, or: apt-get install python3-venv")
    with tempfile.TemporaryDirectory() as folder:
        wheel = Path(folder) / urllib.parse.urlparse(url).path.rsplit("/", 1)[-1]
        wheel.write_bytes(blob)
        command = [str(PYTHON), f"{wheel}/pip", "install", "--quiet", "--no-index", str(wheel)]
        if subprocess.run(command).returncode != 0:
            sys.exit("error: pip could not install itself\nhint: apt-get install python3-venv")


def index_url() -> str:
    if chosen := os.environ.get("PIP_INDEX_URL"):
        return chosen
    for place in (os.environ.get("PIP_CONFIG_FILE"), Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf", "/etc/pip.conf"):
        if place and Path(place).is_file():
            found = re.search(r"^\s*index-url\s*=\s*(\S+)", Path(place).read_text(), re.M)
            if found:
                return found[1]
    return DEFAULT_INDEX


def newest_wheel(body: str, kind: str, page: str) -> tuple[str, str]:
    """URL and SHA-256 of the highest final version on a page of the simple API (PEP 503 or PEP 691)."""
    if kind.endswith("json"):
        files = [(f["url"], f["hashes"].get("sha256", ""), f.get("yanked")) for f in json.loads(body)["files"]]
    else:
        files = [
            (m[1], m[2], "data-yanked" in m[0])
            for m in re.finditer(r'<a[^>]*href="([^"#]+)#sha256=([0-9a-f]{64})"[^>]*>', body)
        ]
    wheels = []
    for url, digest, yanked in files:
        version = re.search(r"/pip-(\d+(?:\.\d+)*)-py3-none-any\.whl", url)
        if version and digest and not yanked:
            wheels.append((tuple(map(int, version[1].split("."))), urllib.parse.urljoin(page, url), digest))
    if not wheels:
        sys.exit(f"error: no pip wheel at {page}\nhint: apt-get install python3-venv")
    _, url, digest = max(wheels)
    return url, digest


if __name__ == "__main__":
    main()
