import json

import pytest
from PIL import Image

from dualpath.data.manifest import read_manifest
from dualpath.datasets.prepare import prepare
from tests.datasets.conftest import save_image


@pytest.mark.parametrize(
    ("name", "file", "key"),
    [
        ("cuhk_pedes", "reid_raw.json", "file_path"),
        ("icfg_pedes", "ICFG-PEDES.json", "file_path"),
        ("rstp_reid", "data_captions.json", "img_path"),
    ],
)
def test_identities_become_instances_and_equal_file_names_stay_apart(tmp_path, name, file, key):
    raw = tmp_path / "raw"
    entries = []
    for folder, identity, split in (("A", 1, "train"), ("B", 1, "train"), ("C", 2, "test")):
        save_image(raw / "imgs" / folder / "0001.png", colour=(identity, 0, 0))
        entries.append(
            {
                "id": identity,
                "split": split,
                key: f"{folder}/0001.png",
                "captions": [" A man in black. ", "He walks."],
            }
        )
    (raw / file).write_text(json.dumps(entries))
    prepare(name, raw, tmp_path / "out")
    images = read_manifest(tmp_path / "out").images
    assert [image.instance for image in images] == ["person-1", "person-1", "person-2"]
    assert [image.path.parent.name for image in images] == ["A", "B", "C"]
    assert images[0].captions == ("A man in black.", "He walks.")


def test_copies_of_people_are_squashed_to_a_square_as_in_the_paper(tmp_path):
    raw = tmp_path / "raw"
    save_image(raw / "p.png", size=(20, 50))
    entry = {"id": 1, "split": "train", "file_path": "p.png", "captions": ["one"]}
    (raw / "reid_raw.json").write_text(json.dumps([entry]))
    prepare("cuhk_pedes", raw, tmp_path / "out", resize=32, workers=1)
    assert Image.open(tmp_path / "out" / "images" / "p.png.jpg").size == (32, 32)
