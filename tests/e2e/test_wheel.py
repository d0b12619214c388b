"""The wheel and the source distribution: complete, and enough for the tour of the README."""

import json
import os
import re
import shlex
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
from PIL import Image

from dualpath.datasets.synthetic.shapes import write_shapes
from dualpath.recipes.schema import SplitRecipe
from tests.e2e.wheel import ROOT, build_distributions

# Without a connection, pretrained weights cannot be downloaded; an epoch is enough for a test.
WITHOUT_HUB = "--set image_encoder.pretrained=false --set stages.0.epochs=1 --set workers=0"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> Path:
    """A folder with the wheel and the sdist."""
    return build_distributions(tmp_path_factory.mktemp("distributions"))


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


def write_photos(folder: Path) -> None:
    """Write the folder of the README's tour: captioned images with a year, one of them x.jpg."""
    write_shapes(folder, scenes=60, captions=2, size=40, seed=1, split=SplitRecipe())
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    with Image.open(folder / rows[0]["file_name"]) as image:
        image.save(folder / "images" / "x.jpg")
    rows[0]["file_name"] = "images/x.jpg"
    lines = [json.dumps({**row, "year": 2015 + number % 10}) for number, row in enumerate(rows)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))


def test_the_wheel_goes_through_the_tour_of_the_readme(programs, tmp_path):
    write_photos(tmp_path / "photos")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tour = text.partition("## Train on your captions")[2].partition("\n## ")[0]
    (commands,) = re.findall(r"```sh\n(.*?)```", tour, re.DOTALL)
    (script,) = re.findall(r"```python\n(.*?)```", tour, re.DOTALL)
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "DUALPATH_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    environment.pop("PYTHONPATH", None)

    def run(*words: str) -> str:
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
        return done.stdout

    for line in commands.splitlines():
        words = shlex.split(line, comments=True)
        if words[1] == "serve":
            assert _serves(words, tmp_path, environment)
            continue
        run(*words, *(WITHOUT_HUB.split() if words[1] == "train" else ()))
    python = str(programs / "python")
    assert "photos/images/" in run(python, "-c", script)
    origin = run(python, "-c", "import dualpath; print(dualpath.__file__)")
    assert origin.startswith(str(programs.parent))


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
