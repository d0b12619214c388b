import pytest
from PIL import Image

from dualpath.datasets.prepare import prepare
from dualpath.errors import DatasetError
from tests.datasets.conftest import NAMES, karpathy_json


def test_copies_are_resized_by_the_shorter_side_and_existing_ones_are_skipped(raw, tmp_path):
    (raw / "dataset_flickr8k.json").write_text(karpathy_json("flickr8k"))
    counted = []
    out = tmp_path / "out"
    prepare("flickr8k", raw, out, resize=20, workers=1, progress=counted.append)
    copies = sorted((out / "images").iterdir())
    assert {Image.open(copy).size for copy in copies} == {(30, 20)}
    assert sum(counted) == len(copies) == 6
    times = [copy.stat().st_mtime_ns for copy in copies]
    copies[0].unlink()
    prepare("flickr8k", raw, out, resize=20, workers=1)
    assert [copy.stat().st_mtime_ns for copy in copies][1:] == times[1:]
    assert copies[0].exists()


def test_an_image_that_cannot_be_resized_is_named(raw, tmp_path):
    (raw / "dataset_flickr8k.json").write_text(karpathy_json("flickr8k"))
    (raw / "images" / NAMES[2]).write_bytes(b"no image")
    with pytest.raises(DatasetError, match=rf"{NAMES[2]}: not an image"):
        prepare("flickr8k", raw, tmp_path / "out", resize=20, workers=1)


def test_a_data_set_without_any_image_is_an_error(tmp_path):
    (tmp_path / "dataset_flickr8k.json").write_text(karpathy_json("flickr8k"))
    with pytest.raises(DatasetError, match="none of the 6 images was found"):
        prepare("flickr8k", tmp_path, tmp_path / "out")
