"""The stores: their addresses, and what only one of them has."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import dualpath
from dualpath.errors import GalleryError
from dualpath.gallery.stores.factory import open_store
from tests.gallery.conftest import drop_gallery

if TYPE_CHECKING:
    from dualpath import DualPath


def test_a_file_cannot_be_a_gallery(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(GalleryError, match="is a file"):
        open_store(str(tmp_path / "file"))


def test_a_folder_with_other_files_cannot_be_a_gallery(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(GalleryError, match="contains other files"):
        open_store(str(tmp_path))


def test_a_folder_whose_creation_was_interrupted_can_be_a_gallery(tmp_path: Path) -> None:
    for name in ("lock", "gallery.json.123.partial"):
        (tmp_path / name).touch()
    (tmp_path / "pictures.lance").mkdir()
    assert open_store(str(tmp_path)).read_metadata() is None


def test_a_damaged_record_of_a_gallery_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "gallery.json").write_text("{")
    with pytest.raises(GalleryError, match=r"gallery\.json: cannot be read"):
        dualpath.Gallery.open(tmp_path)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://x/y", "not the address of a gallery"),
        ("http://127.0.0.1:1/", "write it as http://HOST:PORT/NAME"),
        ("http://user:secret@127.0.0.1:1/name", "into the environment variable MILVUS_TOKEN"),
        ("http://127.0.0.1:1/name", "the Milvus server does not answer"),
        ("http://127.0.0.1:1/name?shards=many", "only shards and replicas"),
    ],
)
def test_a_bad_address_is_refused_with_the_reason(address: str, message: str) -> None:
    pytest.importorskip("pymilvus")
    with pytest.raises(GalleryError) as error:
        open_store(address)
    assert message in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.slow
@pytest.mark.xdist_group("milvus")
def test_a_gallery_on_milvus_can_have_several_shards(
    milvus: str, model: "DualPath", photos: Path
) -> None:
    from pymilvus import MilvusClient

    with dualpath.Gallery.open(f"{milvus}/spread?shards=2", model=model) as gallery:
        gallery.add(photos)
        assert len(gallery) == 100
    collection = MilvusClient(uri=milvus).describe_collection("spread_pictures")
    assert collection["num_shards"] == 2
    drop_gallery(milvus, "spread")
