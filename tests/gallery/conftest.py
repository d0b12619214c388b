"""A real Milvus server, and galleries in either store."""

import json
import shutil
import socket
import uuid

import pytest

import dualpath


@pytest.fixture(scope="session")
def model(bundle):
    return dualpath.load(bundle)


# One machine has room for one server: where tests run in several processes, these are in one.
ON_MILVUS = pytest.param("cluster", marks=pytest.mark.xdist_group("milvus"))


@pytest.fixture(scope="session")
def milvus(tmp_path_factory):
    """The address of a Milvus server that runs as long as the tests of this process."""
    milvus = pytest.importorskip("milvus", reason="the milvus server is not installed")
    server = milvus.MilvusServer()
    server.set_base_dir(str(tmp_path_factory.mktemp("milvus")))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server.listen_port = free.getsockname()[1]
    server.start()
    yield f"http://127.0.0.1:{server.listen_port}"
    server.stop()


@pytest.fixture
def address(request, tmp_path):
    """Where a new gallery may be begun: a folder, or (parametrised) a name on the server."""
    if getattr(request, "param", "embedded") == "embedded":
        yield str(tmp_path / "gallery")
        return
    server, name = request.getfixturevalue("milvus"), f"g{uuid.uuid4().hex[:8]}"
    yield f"{server}/{name}"
    drop_gallery(server, name)


def drop_gallery(server: str, name: str) -> None:
    from pymilvus import MilvusClient

    client = MilvusClient(uri=server)
    for table in ("images", "captions", "about"):
        client.drop_collection(f"{name}_{table}")
    client.close()


@pytest.fixture
def photos(shapes, tmp_path):
    """A copy of the shapes that a test may change, with fields to filter by."""
    folder = tmp_path / "photos"
    shutil.copytree(shapes, folder)
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["number"] = number
        row["even"] = number % 2 == 0
        if number % 3:
            row["colour"] = ["red", "green", "it's 'blue'"][number % 5 % 3]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
