import filecmp

import pytest

from dualpath.data.check import check_folder
from dualpath.data.manifest import read_manifest
from dualpath.datasets.synthetic.shapes import write_shapes


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_shapes(folder, scenes=400, captions=5, size=48, seed=3)
    return read_manifest(folder)


def combination(item):
    number = item.metadata["count"] if item.metadata["kind"] == "count" else 0
    return number, *sorted(zip(item.metadata["colours"], item.metadata["shapes"], strict=True))


def words(split):
    return {word for item in split.items for caption in item.captions for word in caption.split()}


def test_held_out_combinations_are_never_seen_in_training_but_all_words_are(manifest):
    training = manifest.split("train")
    seen = {combination(item) for item in training.items}
    for split in ("val", "test"):
        held_out = manifest.split(split)
        assert not seen & {combination(item) for item in held_out.items}
        assert words(held_out) <= words(training)


def test_the_splits_have_the_shares_asked_for(manifest):
    assert manifest.splits == {"train": 360, "val": 20, "test": 20}


def test_every_scene_is_told_in_different_words_by_its_colours_and_shapes(manifest):
    for item in manifest.items:
        assert len(set(item.captions)) == 5
        for caption in item.captions:
            assert all(colour in caption for colour in item.metadata["colours"])


def test_the_same_seed_writes_the_same_files_and_another_others(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_shapes(tmp_path / name, scenes=12, size=32, seed=seed)
    files = ["metadata.jsonl", "images/scene-00000.png", "images/scene-00011.png"]
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", files, shallow=False)[0] == files
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "c", files, shallow=False)[1] == files


def test_the_set_passes_its_own_check(manifest, tmp_path):
    report = check_folder(manifest.folder, tmp_path)
    assert report.counts[:2] == ["400 images (train 360, val 20, test 20)", "2,000 captions"]
    assert not report.warnings
    assert not report.errors
