"""Searching, evaluating and serving in an environment where torch is not installed."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.wheel import build_distributions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment with the wheel and the dependencies of the server."""
    wheel = next(build_distributions(tmp_path_factory.mktemp("dist")).glob("*.whl"))
    folder = tmp_path_factory.mktemp("environment")
    uv = Path(sys.executable).with_name("uv")
    subprocess.run(
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True
    )
    python = folder / "bin" / "python"
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", python, f"{wheel}[serve]"], check=True
    )
    return python


@pytest.fixture(scope="module")
def run(python: Path, tmp_path_factory: pytest.TempPathFactory):
    environment = {**os.environ, "DUALPATH_CACHE": str(tmp_path_factory.mktemp("cache"))}
    environment.pop("PYTHONPATH", None)
    folder = tmp_path_factory.mktemp("work")

    def run(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [str(python), "-m", "dualpath", *map(str, words)]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == code, f"{words}\n{done.stdout}{done.stderr}"
        return done

    return run


@pytest.fixture(scope="module")
def gallery(run, bundle, shapes, tmp_path_factory) -> Path:
    address = tmp_path_factory.mktemp("galleries") / "shapes.db"
    added = run("gallery", "add", address, shapes, "--model", bundle)
    assert "100 new images" in added.stdout
    return address


def test_torch_is_not_installed_and_the_environment_is_small(python):
    folder = python.parents[1]
    assert not list(folder.glob("lib/python*/site-packages/torch*"))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert size < 700e6


def test_a_gallery_is_filled_and_searched_as_with_torch(run, gallery, bundle):
    found = json.loads(run("search", gallery, "a red star", "--top", 5, "--json").stdout)
    import dualpath

    with dualpath.Gallery.open(gallery, model=dualpath.load(bundle, runtime="torch")) as opened:
        expected = opened.search("a red star", top=5)
    assert [hit["path"] for hit in found[0]["hits"]] == [str(hit.image.path) for hit in expected]


def test_the_other_commands_of_the_searching_half(run, gallery, bundle, shapes, tmp_path):
    assert "100 images" in run("data", "check", shapes).stdout
    assert "onnxruntime" in run("info", bundle).stdout
    assert "rsum" in run("evaluate", bundle, "--data", shapes, "--split", "val").stdout
    run("embed", bundle, shapes, "--out", tmp_path / "vectors.parquet")
    assert "100" in run("gallery", "info", gallery).stdout
    run("gallery", "verify", gallery)


@pytest.mark.parametrize(
    "words",
    [
        ["train", "shapes", "--data", "{data}", "--out", "out"],
        ["export", "{bundle}", "--data", "{data}"],
    ],
)
def test_a_command_that_needs_torch_names_the_extra_in_one_line(run, bundle, shapes, words):
    filled = [word.format(data=shapes, bundle=bundle) for word in words]
    lines = run(*filled, code=1).stderr.splitlines()
    assert len(lines) == 1
    assert "pip install 'dualpath[" in lines[0]


def test_the_gallery_is_served(python, gallery):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "dualpath", "serve", gallery, "--port", str(port)]
    server = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert server.poll() is None, server.stderr.read()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5)
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        request = f"http://127.0.0.1:{port}/v1/search?q=a+red+star&top=3"
        with urllib.request.urlopen(request, timeout=30) as response:
            assert len(json.load(response)["hits"]) == 3
    finally:
        server.terminate()
        server.wait(60)
