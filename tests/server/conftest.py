"""A real server, in a process of its own, over a gallery of shapes."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

import dualpath


@dataclass
class Server:
    url: str
    process: subprocess.Popen
    log: Path

    def client(self, **options) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **options)


@contextmanager
def running(address, log: Path, *options):
    """Start ``dualpath serve`` and wait until it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "dualpath", "serve", address, "--port", port, *options]
    with log.open("w") as out:
        process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=out)
    server = Server(f"http://127.0.0.1:{port}", process, log)
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                if httpx.get(f"{server.url}/readyz", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(40)


@pytest.fixture(scope="session")
def photos(shapes, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "photos"
    shutil.copytree(shapes, folder)
    return folder


@pytest.fixture(scope="session")
def gallery_folder(bundle, photos, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("served-gallery") / "gallery"
    with dualpath.Gallery.open(folder, model=dualpath.load(bundle)) as gallery:
        gallery.add(photos)
    return folder


@pytest.fixture(scope="session")
def server(gallery_folder, tmp_path_factory):
    """A server that only reads."""
    with running(gallery_folder, tmp_path_factory.mktemp("server") / "log") as server:
        yield server


@pytest.fixture(scope="session")
def client(server):
    with server.client() as client:
        yield client


CURVE = {"slope": 8.0, "intercept": -4.0, "error": 0.01, "auroc": 0.9, "images": 10}


@pytest.fixture(scope="session")
def judged(bundle, photos, tmp_path_factory):
    """A server whose model has a curve of known numbers."""
    folder = tmp_path_factory.mktemp("judged")
    calibrated = shutil.copytree(bundle, folder / "bundle")
    details = json.loads((calibrated / "metrics.json").read_text())
    details["validation"]["calibration"] = CURVE
    (calibrated / "metrics.json").write_text(json.dumps(details))
    with dualpath.Gallery.open(folder / "gallery", model=dualpath.load(calibrated)) as gallery:
        gallery.add(photos)
    with running(folder / "gallery", folder / "log") as server:
        yield server
