"""Searching, evaluating and serving in an environment where torch is not installed."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.wheel import ROOT, build_distributions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment with the wheel and the dependencies of the server."""
    wheels = build_distributions(tmp_path_factory.mktemp("dist"))
    folder = tmp_path_factory.mktemp("environment")
    uv = Path(sys.executable).with_name("uv")
    subprocess.run(
        [uv, "venv", "--quiet", "--clear", "--seed", "--python", sys.executable, folder],
        check=True,
    )
    # The step of the container.
    subprocess.run(
        ["sh", ROOT / "docker" / "install.sh", wheels, "serve"],
        env={**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"},
        check=True,
        capture_output=True,
    )
    return folder / "bin" / "python"


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
    seeds = {"pip", "setuptools", "pkg_resources", "wheel"}  # of every new environment
    files = (
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and not seeds & set(path.parts)
    )
    size = sum(file.stat().st_size for file in files)
    assert size < 710e6  # 699 MB were measured


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


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def serving(command: list[str], is_ready: Callable[[], bool]) -> Iterator[None]:
    """Run a server while the block runs."""
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not is_ready():
            assert server.poll() is None, server.stderr.read()
            assert time.monotonic() < deadline, "the server did not become ready"
            time.sleep(0.2)
        yield
    finally:
        server.terminate()
        server.wait(60)


def search(port: int, key: str | None = None) -> list[dict[str, object]]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    address = f"http://127.0.0.1:{port}/v1/search?q=a+red+star&top=3"
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as response:
        return json.load(response)["hits"]


def test_the_gallery_is_served(python, gallery):
    port = free_port()

    def is_ready() -> bool:
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz").status == 200
        except (urllib.error.URLError, ConnectionError):
            return False

    with serving([python, "-m", "dualpath", "serve", gallery, "--port", str(port)], is_ready):
        assert len(search(port)) == 3


def test_the_command_and_the_health_check_of_the_container(
    python, run, gallery, bundle, tmp_path, monkeypatch
):
    port = free_port()
    (tmp_path / "gallery").symlink_to(gallery)
    (tmp_path / "model").symlink_to(bundle)
    [key] = re.findall(r"dp_\S+", run("keys", "add", tmp_path / "keys.json", "alice").stdout)
    monkeypatch.setenv("DUALPATH_CACHE", str(tmp_path / "cache"))

    def instruction(name: str) -> list[str]:
        """Return the words of a JSON array in the Dockerfile, for this machine."""
        text = (ROOT / "docker" / "Dockerfile").read_text("utf-8")
        [words] = re.findall(rf"^{name} (\[.*\])$", text, re.MULTILINE)
        words = words.replace("/data", str(tmp_path)).replace("8000", str(port))
        return [str(python) if word == "python" else word for word in json.loads(words)]

    command = [str(python.with_name("dualpath")), *instruction("CMD")]
    assert instruction("ENTRYPOINT") == ["dualpath"]
    check = instruction("    CMD")

    def is_healthy() -> bool:
        return subprocess.run(check, capture_output=True).returncode == 0

    assert not is_healthy()
    with serving(command, is_healthy):
        assert len(search(port, key)) == 3
        with pytest.raises(urllib.error.HTTPError, match="401"):
            search(port)
