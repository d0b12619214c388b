import json

import pytest

from dualpath.data.manifest import read_manifest
from dualpath.datasets.prepare import prepare
from tests.datasets.conftest import save_image


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_the_official_files_of_mscoco_are_read(tmp_path, year):
    raw = tmp_path / "raw"
    for split, number in (("train", 1), ("val", 2)):
        save_image(raw / f"{split}{year}" / f"{number:012d}.jpg")
        content = {
            "images": [{"id": number, "file_name": f"{number:012d}.jpg"}],
            "annotations": [
                {"image_id": number, "id": k, "caption": f"A {split} image.\n"} for k in range(2)
            ],
        }
        (raw / "annotations").mkdir(exist_ok=True)
        (raw / "annotations" / f"captions_{split}{year}.json").write_text(json.dumps(content))
    prepare("mscoco", raw, tmp_path / "out", split=year)
    images = read_manifest(tmp_path / "out").images
    assert [(image.split, image.captions) for image in images] == [
        ("train", ("A train image.",) * 2),
        ("val", ("A val image.",) * 2),
    ]
