import json
import zipfile

import pytest

from dualpath.data.manifest import read_manifest
from dualpath.datasets.prepare import prepare
from dualpath.errors import DatasetError
from tests.datasets.conftest import NAMES, karpathy_json, names_by_split


@pytest.mark.parametrize("zipped", [False, True])
def test_karpathys_json_is_read_from_a_file_or_from_its_zip(raw, tmp_path, zipped):
    content = karpathy_json("flickr30k")
    if zipped:
        with zipfile.ZipFile(raw / "caption_datasets.zip", "w") as archive:
            archive.writestr("__MACOSX/dataset_flickr30k.json", "nothing")
            archive.writestr("folder/dataset_flickr30k.json", content)
    else:
        (raw / "dataset_flickr30k.json").write_text(content)
    prepared = prepare("flickr30k", raw, tmp_path / "out")
    assert prepared.manifest == tmp_path / "out" / "metadata.jsonl"
    assert prepared.image_counts == {"train": 3, "val": 1, "test": 2}
    assert prepared.warnings == [
        "split train has 3 images, but 29,000 were published",
        "split val has 1 images, but 1,014 were published",
        "split test has 2 images, but 1,000 were published",
    ]
    assert names_by_split(tmp_path / "out") == {
        "train": NAMES[:3],
        "val": [NAMES[3]],
        "test": NAMES[4:],
    }
    image = read_manifest(tmp_path / "out").images[0]
    assert image.captions[1] == f"caption 1 of {NAMES[0]} ."
    assert image.path.resolve() == (raw / "images" / NAMES[0]).resolve()


def test_restval_images_of_mscoco_are_training_images(raw, tmp_path):
    splits = ["train", "restval", "restval", "val", "test", "test"]
    (raw / "dataset_coco.json").write_text(karpathy_json("coco", "images", splits))
    prepare("mscoco", raw, tmp_path / "out")
    assert names_by_split(tmp_path / "out")["train"] == NAMES[:3]


def test_another_format_is_an_error_that_names_file_and_image(raw, tmp_path):
    content = json.loads(karpathy_json("flickr8k"))
    del content["images"][1]["sentences"]
    (raw / "dataset_flickr8k.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"dataset_flickr8k\.json is not in .* \(image 2: "):
        prepare("flickr8k", raw, tmp_path / "out")


def test_a_damaged_zip_is_named(raw, tmp_path):
    (raw / "caption_datasets.zip").write_bytes(b"no zip")
    with pytest.raises(DatasetError, match=r"caption_datasets\.zip: not a complete zip"):
        prepare("flickr8k", raw, tmp_path / "out")
