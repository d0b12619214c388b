"""The wheel and the source distribution: complete, and enough for the tour of the README."""

import os
import re
import shlex
import shutil
import site
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGED = ("src", "docs", "tests", "benchmarks", "examples", "pyproject.toml", "README.md",
            "LICENSE", "MANIFEST.in", "CHANGELOG.md", "Makefile")  # fmt: skip
# The tour trains for minutes; a test trains for seconds.
FASTER = {
    "dualpath prepare shapes": "--scenes 120 --size 40",
    "dualpath train": "--set stages.0.epochs=1 --set stages.1.epochs=1 --set workers=0",
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> Path:
    """A folder with the wheel and the sdist, built from a copy of the repository."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in PACKAGED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, copy / name, ignore=ignored)
        elif source.exists():
            shutil.copy(source, copy / name)
    code = (
        "import sys; from setuptools import build_meta as b; "
        "b.build_sdist(sys.argv[1]); b.build_wheel(sys.argv[1])"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(out)], cwd=copy, check=True, capture_output=True
    )
    return out


@pytest.fixture(scope="module")
def programs(distributions, tmp_path_factory) -> Path:
    """The programs of a new environment with the wheel and this environment's other packages."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    wheel = next(distributions.glob("*.whl"))
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(list(map(str, install)), check=True, capture_output=True)
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "others.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return folder / "bin"


def test_the_wheel_holds_recipes_page_types_and_licence(distributions):
    names = zipfile.ZipFile(next(distributions.glob("*.whl"))).namelist()
    for name in (
        "dualpath/recipes/default.yaml",
        "dualpath/server/web/index.html",
        "dualpath/py.typed",
    ):
        assert name in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests", "benchmarks")) for name in names)


def test_the_sdist_holds_tests_docs_examples_and_benchmarks(distributions):
    with tarfile.open(next(distributions.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("tests/conftest.py", "docs/index.md", "benchmarks", "examples", "CHANGELOG.md"):
        assert name in names


def test_the_wheel_goes_through_the_tour_of_the_readme(programs, tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- tour -->\n```sh\n(.*?)```", text, re.DOTALL)
    commands = [
        line.partition("#")[0].strip()
        for block in blocks
        for line in block.replace("\\\n", " ").splitlines()
    ]
    commands = [command for command in commands if command.startswith("dualpath")]
    assert len(commands) >= 4
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "DUALPATH_CACHE": str(tmp_path / "cache"),
    }
    environment.pop("PYTHONPATH", None)
    for command in commands:
        extra = next((e for start, e in FASTER.items() if command.startswith(start)), "")
        words = shlex.split(f"{command} {extra}")
        if words[1] == "serve":
            assert _serves(words, tmp_path, environment)
            continue
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    where = [programs / "python", "-c", "import dualpath; print(dualpath.__file__)"]
    shown = subprocess.run(list(map(str, where)), capture_output=True, text=True, cwd=tmp_path)
    assert shown.stdout.startswith(str(programs.parent))


def _serves(words: list[str], folder: Path, environment: dict[str, str]) -> bool:
    """Return whether the server of a command becomes ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([*words, "--port", str(port)], cwd=folder, env=environment)
    try:
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz") as answer:
                    return answer.status == 200
            except (urllib.error.URLError, ConnectionError):
                if server.poll() is not None:
                    return False
                time.sleep(0.2)
        return False
    finally:
        server.terminate()
        server.wait(60)
