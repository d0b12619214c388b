"""Small files in the formats of the published data sets."""

import json

import pytest
from PIL import Image

from dualpath.data.manifest import read_manifest

NAMES = [f"{number}_{'ab' * 5}.jpg" for number in range(1000, 1006)]
SPLITS = ["train", "train", "train", "val", "test", "test"]


def save_image(path, size=(60, 40), colour=(200, 30, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def karpathy_json(name, filepath=None, splits=SPLITS):
    images = [
        {
            "filename": image_name,
            "split": split,
            "sentences": [{"raw": f"caption {k} of {image_name} ."} for k in range(5)],
            **({"filepath": filepath} if filepath else {}),
        }
        for image_name, split in zip(NAMES, splits, strict=True)
    ]
    return json.dumps({"images": images, "dataset": name})


def names_by_split(out):
    """Return the file names of the images of each split of a manifest."""
    manifest = read_manifest(out)
    return {
        split: [image.path.name for image in manifest.split(split).images]
        for split in manifest.splits
    }


@pytest.fixture
def raw(tmp_path):
    """A folder with the images of ``NAMES`` and no annotations."""
    for name in NAMES:
        save_image(tmp_path / "raw" / "images" / name)
    return tmp_path / "raw"
