"""A real Milvus server, and galleries in both stores."""

import json
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
reading_both_stores = pytest.mark.parametrize("full_gallery", ["lance", ON_MILVUS], indirect=True)


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


@contextmanager
def new_address(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    if getattr(request, "param", "lance") == "lance":
        yield str(folder / "gallery")
        return
    server, name = request.getfixturevalue("milvus"), f"g{uuid.uuid4().hex[:8]}"
    yield f"{server}/{name}"
    drop_gallery(server, name)


@pytest.fixture
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a new gallery: a folder, or a name on the server (``in_both_stores``)."""
    with new_address(request, tmp_path) as address:
        yield address


@pytest.fixture(scope="module")
def full_gallery(
    request: pytest.FixtureRequest,
    model: "DualPath",
    shapes: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator["Gallery"]:
    """A gallery that contains the photos, for tests that only read (``reading_both_stores``)."""
    folder = tmp_path_factory.mktemp("full")
    with (
        new_address(request, folder) as address,
        dualpath.Gallery.open(address, model=model) as gallery,
    ):
        gallery.add(copy_photos(shapes, folder / "photos"))
        yield gallery


@pytest.fixture
def gallery(address: str, model: "DualPath", photos: Path) -> Iterator["Gallery"]:
    """A gallery that contains the photos, which a test may change."""
    with dualpath.Gallery.open(address, model=model) as gallery:
        gallery.add(photos)
        yield gallery


@pytest.fixture
def photos(shapes: Path, tmp_path: Path) -> Path:
    """A copy of the shapes that a test may change, with more metadata."""
    return copy_photos(shapes, tmp_path / "photos")


def copy_photos(shapes: Path, folder: Path) -> Path:
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
