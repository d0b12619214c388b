"""A real server, in a process of its own, over a gallery of shapes."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

import dualpath

CALIBRATION = {"slope": 8.0, "intercept": -4.0, "error": 0.01, "auroc": 0.9, "images": 10}


@dataclass
class Server:
    url: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **options)


@contextmanager
def running(address: Path, log: Path, *options: object) -> Iterator[Server]:
    """Start ``dualpath serve``, wait until it is ready, and stop it at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "dualpath", "serve", address, "--port", port, *options]
    with log.open("w") as out:
        process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=out)
    server = Server(f"http://127.0.0.1:{port}", process, log)
    try:
        deadline = time.monotonic() + 120
        while not _is_ready(server.url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(40)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="session")
def photos(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "photos"
    shutil.copytree(shapes, folder)
    return folder


@pytest.fixture(scope="session")
def gallery_folder(bundle: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served-gallery") / "gallery"
    with dualpath.Gallery.open(folder, model=bundle) as gallery:
        gallery.add(photos)
    return folder


@pytest.fixture(scope="session")
def server(gallery_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A read-only server without keys."""
    with running(gallery_folder, tmp_path_factory.mktemp("server") / "log") as server:
        yield server


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def calibrated_server(
    bundle: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server whose model has a calibration with known numbers."""
    folder = tmp_path_factory.mktemp("calibrated")
    calibrated = shutil.copytree(bundle, folder / "bundle")
    metrics = json.loads((calibrated / "metrics.json").read_text())
    metrics["validation"]["calibration"] = CALIBRATION
    (calibrated / "metrics.json").write_text(json.dumps(metrics))
    with dualpath.Gallery.open(folder / "gallery", model=calibrated) as gallery:
        gallery.add(photos)
    with running(folder / "gallery", folder / "log") as server:
        yield server
