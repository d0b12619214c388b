"""A real Milvus server, and galleries in both stores."""

import json
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import dualpath
from dualpath.data.manifest import read_manifest
from dualpath.gallery.schema import CAPTIONS, IMAGES

if TYPE_CHECKING:
    from dualpath import DualPath, Gallery
    from dualpath.data.record import ImageRecord

# A machine runs one server, so with several test processes these tests run in one of them.
ON_MILVUS = pytest.param("milvus", marks=[pytest.mark.xdist_group("milvus"), pytest.mark.slow])
in_both_stores = pytest.mark.parametrize("address", ["lance", ON_MILVUS], indirect=True)


@pytest.fixture(scope="session")
def model(bundle: Path) -> "DualPath":
    return dualpath.load(bundle)


@pytest.fixture(scope="session")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Milvus server that runs until the tests of this process end."""
    milvus = pytest.importorskip("milvus", reason="the package milvus is not installed")
    server = milvus.MilvusServer()
    server.set_base_dir(str(tmp_path_factory.mktemp("milvus")))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server.listen_port = free.getsockname()[1]
    server.start()
    yield f"http://127.0.0.1:{server.listen_port}"
    server.stop()


@pytest.fixture
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a new gallery: a folder, or a name on the server (``in_both_stores``)."""
    if getattr(request, "param", "lance") == "lance":
        yield str(tmp_path / "gallery")
        return
    server, name = request.getfixturevalue("milvus"), f"g{uuid.uuid4().hex[:8]}"
    yield f"{server}/{name}"
    drop_gallery(server, name)


@pytest.fixture
def gallery(address: str, model: "DualPath", photos: Path) -> Iterator["Gallery"]:
    """A gallery that contains the photos."""
    with dualpath.Gallery.open(address, model=model) as gallery:
        gallery.add(photos)
        yield gallery


@pytest.fixture
def photos(shapes: Path, tmp_path: Path) -> Path:
    """A copy of the shapes that a test may change, with more metadata."""
    folder = tmp_path / "photos"
    shutil.copytree(shapes, folder)

    def add_metadata(rows: list[dict[str, Any]]) -> None:
        for number, row in enumerate(rows):
            row["number"] = number
            row["even"] = number % 2 == 0
            if number % 3:
                row["colour"] = ["red", "green", "it's 'blue'"][number % 5 % 3]

    rewrite_manifest(folder, add_metadata)
    return folder


def images_of(photos: Path) -> list["ImageRecord"]:
    return list(read_manifest(photos).images)


def rewrite_manifest(photos: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    path = photos / "metadata.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def drop_gallery(server: str, name: str) -> None:
    from pymilvus import MilvusClient

    client = MilvusClient(uri=server)
    for table in (IMAGES, CAPTIONS, "about"):
        client.drop_collection(f"{name}_{table}")
    client.close()
