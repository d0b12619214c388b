import json
import shutil

import pytest

from dualpath.data.manifest import read_manifest, write_manifest
from dualpath.errors import ManifestError
from dualpath.training.data import gather_data
from tests.conftest import ONE_STAGE, small_recipe, train_quietly


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def gather(folder, cache, log=lambda _: None):
    return gather_data(read_manifest(folder), cache, skip_broken=False, log=log)


@pytest.fixture
def folder(shapes, tmp_path):
    return shutil.copytree(shapes, tmp_path / "shapes")


def test_a_broken_image_stops_before_training_and_can_be_left_out(tmp_path, folder, cache):
    broken = read_manifest(folder).split("train").images[0].path
    broken.write_bytes(broken.read_bytes()[:200])
    recipe = small_recipe(stages=ONE_STAGE)
    message = rf"1 image is broken.*--skip-broken .*:\n.*{broken.name}"
    with pytest.raises(ManifestError, match=message):
        train_quietly(recipe, folder, tmp_path / "out", cache=cache)
    assert not (tmp_path / "out" / "training").exists()
    model = train_quietly(recipe, folder, tmp_path / "out", skip_broken=True, cache=cache)
    assert model.metrics["data"]["images"] == 79
    assert model.metrics["data"]["captions"] == 3 * 79


def test_images_without_captions_are_left_out_and_counted(folder, cache):
    rows = rows_of(folder)
    first = next(row for row in rows if row["split"] == "train")
    write_manifest(folder, [{**row, "captions": []} if row is first else row for row in rows])
    lines = []
    data = gather(folder, cache, lines.append)
    assert lines == ["1 images without a caption are left out"]
    assert (len(data.train), len(data.val)) == (79, 10)
    assert (len(data.train_hashes), len(data.val_hashes)) == (79, 10)


def test_one_training_image_is_not_enough(folder, cache):
    rows = [row for row in rows_of(folder) if row["split"] != "train"]
    first = next(row for row in rows_of(folder) if row["split"] == "train")
    write_manifest(folder, [*rows, first])
    with pytest.raises(ManifestError, match="'train' needs two captioned images or more"):
        gather(folder, cache)


@pytest.mark.parametrize("change", ["caption", "split", "instance", "pixels"])
def test_the_fingerprint_changes_with_everything_that_training_reads(folder, cache, change):
    before = gather(folder, cache).fingerprint
    assert gather(folder, cache).fingerprint == before
    rows = rows_of(folder)
    row = next(row for row in rows if row["split"] == "train")
    if change == "pixels":
        other = next(other for other in rows if other is not row)
        shutil.copy(folder / other["file_name"], folder / row["file_name"])
    else:
        values = {"caption": {"captions": ["new"]}, "split": {"split": "val"}}
        row |= values.get(change, {"instance": "new"})
    write_manifest(folder, rows)
    assert gather(folder, cache).fingerprint != before
