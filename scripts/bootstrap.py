"""Make ``.venv`` and install Tuneloop with everything it needs, on nothing but Python's standard library.

    python3 scripts/bootstrap.py            what `make demo` begins with; seconds when nothing changed
    python3 scripts/bootstrap.py --tests    what `make test` begins with: also every reader, Ray, and what tests compare with
    python3 scripts/bootstrap.py --freeze   rewrite constraints.txt from a fresh environment

Debian and Ubuntu ship ``python3`` without ``ensurepip`` (it sits in python3-venv). Then pip comes, in this order, from
the machine's own pip, from the package index that pip is configured to use, or from Debian's archive, without root.

Environment:
    TORCH_INDEX_URL   where to get torch from, e.g. the CPU-only or a CUDA index of the PyTorch project
    PIP_*             as pip reads them
"""

from __future__ import annotations

import argparse
import configparser
import hashlib
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import venv
from pathlib import Path
from urllib.parse import urljoin

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "tuneloop-installed"
CONSTRAINTS = ROOT / "constraints.txt"
OLDEST, NEWEST = (3, 11), (3, 13)
SYSTEM_WHEELS = Path("/usr/share/python-wheels")
TIMEOUT_S = 60
DEMO, TESTS = "all,dev", "all,data,ray,gpu,openvino,dev,peers"
"""Extras of Tuneloop: the loop, and everything that a machine without a GPU can test."""


class BootstrapError(Exception):
    """Two lines for the person at the terminal: what is wrong, and what to do."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Make .venv and install Tuneloop into it.")
    parser.add_argument("--tests", action="store_true", help="install what the tests need, too")
    parser.add_argument("--freeze", action="store_true", help="rewrite constraints.txt from a fresh environment")
    try:
        check_python()
        wanted = parser.parse_args()
        if wanted.freeze:
            freeze()
        else:
            install(TESTS if wanted.tests else DEMO)
    except BootstrapError as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        command = " ".join(map(str, error.cmd))
        sys.exit(f"error: this failed: {command}\nhint: its own message stands above; the same make command goes on")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; the same make command goes on")


def check_python() -> None:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST:
        raise BootstrapError(
            f"Python {version} is too old ({sys.executable})\nhint: install Python 3.11 to 3.13, then: make PYTHON=python3.12 demo"
        )
    if sys.version_info[:2] > NEWEST:
        print(f"note: Python {version} is newer than what Tuneloop is tested with (3.11 to 3.13)", file=sys.stderr)


def install(extras: str) -> None:
    """Tuneloop with these extras, unless the stamp says that they, or more, are there."""
    enough = (key(extras), key(TESTS))
    if STAMP.exists() and STAMP.read_text() in enough and works(PYTHON):
        return
    say("installing into .venv (the first time takes some minutes)")
    make_environment(VENV)
    cheaper = (
        "" if os.environ.get("TORCH_INDEX_URL") else " (without a GPU, TORCH_INDEX_URL can name a smaller CPU build)"
    )
    say(f"installing torch{cheaper}")
    pip(PYTHON, "install", torch_requirement(), *torch_index())
    say("installing Tuneloop and the pinned versions of constraints.txt")
    pip(PYTHON, "install", "-c", str(CONSTRAINTS), "-e", f"{ROOT}[{extras}]")
    STAMP.write_text(key(extras))
    say("installed")


def key(extras: str) -> str:
    """What an installation depends on."""
    parts = [extras.encode(), (ROOT / "pyproject.toml").read_bytes(), CONSTRAINTS.read_bytes()]
    parts += [sys.version.encode(), str(VENV).encode(), os.environ.get("TORCH_INDEX_URL", "").encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest() + "\n"


def works(python: Path) -> bool:
    """Whether there is an interpreter of this Python's version (a system upgrade can leave a dead one)."""
    code = f"import sys; raise SystemExit(sys.version_info[:2] != {tuple(sys.version_info[:2])})"
    return python.exists() and subprocess.run([python, "-c", code], check=False).returncode == 0


def make_environment(folder: Path) -> None:
    python = folder / "bin" / "python"
    if not works(python):
        venv.create(folder, clear=True, symlinks=True, with_pip=False)
    if not has_pip(python):
        get_pip(python)


def has_pip(python: Path) -> bool:
    return subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0


def get_pip(python: Path) -> None:
    """Put pip into an environment, by the first way that works."""
    reasons = []
    for way in (pip_from_ensurepip, pip_from_system, pip_from_index, pip_from_debian):
        try:
            way(python)
            return
        except (BootstrapError, OSError, ImportError, subprocess.CalledProcessError) as error:
            reasons.append(f"{way.__name__.removeprefix('pip_from_')}: {str(error).splitlines()[0]}")
    raise BootstrapError(
        f"pip cannot be had ({'; '.join(reasons)})\nhint: as root: apt-get install python3-venv, then the same command"
    )


def pip_from_ensurepip(python: Path) -> None:
    import ensurepip  # noqa: F401  Debian leaves it out

    run(python, "-m", "ensurepip", "--upgrade", "--default-pip", quiet=True)


def pip_from_system(python: Path) -> None:
    """A wheel that Debian's packages put there, or another pip on this machine."""
    wheels = sorted(SYSTEM_WHEELS.glob("pip-*.whl"))
    if wheels:
        install_wheel(python, wheels[-1])
    else:
        run(sys.executable, "-m", "pip", "--python", python, "install", "pip", quiet=True)


def pip_from_index(python: Path) -> None:
    """pip's wheel from the index that pip is configured to use, with the SHA-256 that the index states."""
    index = setting("index-url")
    if index is None:
        raise BootstrapError("no index is configured (PIP_INDEX_URL)")
    page = index.rstrip("/") + "/pip/"
    with tempfile.TemporaryDirectory() as folder:
        url, digest = newest_wheel(fetch(page), page)
        data = fetch(url)
        if hashlib.sha256(data).hexdigest() != digest:
            raise BootstrapError("pip's wheel does not have the SHA-256 that the index states")
        wheel = Path(folder) / url.rpartition("/")[2].partition("#")[0]
        wheel.write_bytes(data)
        install_wheel(python, wheel)


def newest_wheel(page: bytes, base: str) -> tuple[str, str]:
    """(URL, SHA-256) of the newest final release on a simple-API page, JSON (PEP 691) or HTML (PEP 503)."""
    text = page.decode("utf-8", "replace")
    if text.lstrip().startswith("{"):
        found = [(f["url"], f["hashes"].get("sha256", ""), f.get("yanked")) for f in json.loads(text)["files"]]
    else:
        links = re.finditer(r'<a[^>]*href="([^"#]+)#sha256=([0-9a-f]{64})"[^>]*>', text)
        found = [(m[1], m[2], "data-yanked" in m[0]) for m in links]
    versions = {}
    for url, digest, yanked in found:
        match = re.search(r"/pip-(\d+(?:\.\d+)*)-py3-none-any\.whl$", url)
        if match and digest and not yanked:
            versions[tuple(map(int, match[1].split(".")))] = (urljoin(base, url), digest)
    if not versions:
        raise BootstrapError("the index lists no wheel of pip with a SHA-256")
    return versions[max(versions)]


def fetch(url: str) -> bytes:
    if not url.startswith(("https://", "http://")):
        raise BootstrapError(f"{url} is not a web address")
    certificates = setting("cert")
    context = ssl.create_default_context(cafile=certificates) if certificates else None
    accept = "application/vnd.pypi.simple.v1+json, text/html;q=0.5, */*;q=0.1"
    request = urllib.request.Request(url, headers={"Accept": accept})  # noqa: S310  the scheme is checked above
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context) as answer:  # noqa: S310
            return bytes(answer.read())
    except urllib.error.URLError as error:
        raise BootstrapError(f"{url}: {error}") from error


def setting(name: str) -> str | None:
    """A setting of pip: its environment variable, else the nearest configuration file."""
    if value := os.environ.get(f"PIP_{name.upper().replace('-', '_')}"):
        return value
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    places = [Path("/etc/pip.conf"), Path.home() / ".pip" / "pip.conf", home / "pip" / "pip.conf"]
    if chosen := os.environ.get("PIP_CONFIG_FILE"):
        places.append(Path(chosen))
    parser = configparser.RawConfigParser()
    try:
        parser.read(places, encoding="utf-8")
    except configparser.Error as error:
        raise BootstrapError(f"pip's configuration cannot be read: {error}") from error
    return parser.get("global", name, fallback=None)


def pip_from_debian(python: Path) -> None:
    """The wheel inside Debian's python3-pip-whl, fetched and unpacked by apt and dpkg; they check its signature."""
    apt = shutil.which("apt-get")
    if apt is None:
        raise BootstrapError("there is no apt-get")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            run(apt, "download", "python3-pip-whl", quiet=True, cwd=folder)
        except subprocess.CalledProcessError:  # no package lists on this machine: get them, into our own folder
            own = [f"-oDir::State={folder}/state", f"-oDir::Cache={folder}/cache", "-oAPT::Sandbox::User="]
            (folder / "state" / "lists" / "partial").mkdir(parents=True)
            (folder / "cache" / "archives" / "partial").mkdir(parents=True)
            run(apt, *own, "update", quiet=True, cwd=folder)
            run(apt, *own, "download", "python3-pip-whl", quiet=True, cwd=folder)
        run("dpkg-deb", "-x", next(folder.glob("*.deb")), folder / "unpacked", quiet=True)
        install_wheel(python, next((folder / "unpacked").rglob("pip-*.whl")))


def install_wheel(python: Path, wheel: Path) -> None:
    run(python, wheel / "pip", "install", "--no-index", wheel, quiet=True)


def torch_requirement() -> str:
    found = re.search(r"^torch==\S+$", CONSTRAINTS.read_text(), re.MULTILINE)
    if found is None:
        raise BootstrapError(f"{CONSTRAINTS.name} does not pin torch\nhint: git checkout {CONSTRAINTS.name}")
    return found.group()


def torch_index() -> list[str]:
    url = os.environ.get("TORCH_INDEX_URL")
    return ["--index-url", url] if url else []


def freeze() -> None:
    """constraints.txt: what a fresh environment resolves to, torch at the version that is pinned now."""
    lines = CONSTRAINTS.read_text().splitlines()
    head = [line for line in lines if line.startswith("#")]
    with tempfile.TemporaryDirectory() as name:
        python = Path(name) / "bin" / "python"
        make_environment(Path(name))
        pip(python, "install", torch_requirement(), *torch_index())
        pip(python, "install", f"{ROOT}[{TESTS}]")
        found = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    pins = [re.sub(r"\+.*", "", line) for line in found.splitlines() if re.match(r"[\w.\-]+==", line)]
    own = ("tuneloop==", "nvidia-", "triton==")  # torch's CUDA build pins its companions itself
    kept = sorted((pin for pin in pins if not pin.startswith(own)), key=lambda pin: pin.partition("==")[0].lower())
    CONSTRAINTS.write_text("\n".join([*head, *kept]) + "\n")


def pip(python: Path, *arguments: str) -> None:
    run(python, "-m", "pip", "--disable-pip-version-check", *arguments)


def run(*command: str | Path, quiet: bool = False, cwd: Path | None = None) -> None:
    words = [str(word) for word in command]
    print("+ " + " ".join(words), file=sys.stderr, flush=True)
    subprocess.run(words, check=True, cwd=cwd, stdout=subprocess.DEVNULL if quiet else None)


def say(line: str) -> None:
    print(f"bootstrap: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
