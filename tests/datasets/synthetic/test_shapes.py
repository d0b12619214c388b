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


def combinations(split):
    """Return the number (0 for a relation) and the coloured shapes of all scenes of a split."""
    return {
        (
            image.metadata["count"] if image.metadata["kind"] == "count" else 0,
            *sorted(zip(image.metadata["colours"], image.metadata["shapes"], strict=True)),
        )
        for image in split.images
    }


def words(split):
    return {word for caption in split.images.captions for word in caption.split()}


@pytest.mark.parametrize("split", ["val", "test"])
def test_combinations_are_new_but_all_words_occur_in_training(manifest, split):
    training, held_out = manifest.split("train"), manifest.split(split)
    assert not combinations(training) & combinations(held_out)
    assert words(held_out) <= words(training)


def test_the_splits_have_the_requested_shares(manifest):
    assert manifest.splits == {"train": 360, "val": 20, "test": 20}


def test_the_captions_of_a_scene_differ_and_name_its_colours(manifest):
    for image in manifest.images:
        assert len(set(image.captions)) == 5
        for caption in image.captions:
            assert all(colour in caption for colour in image.metadata["colours"])


def test_the_same_seed_writes_the_same_files_and_another_seed_others(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_shapes(tmp_path / name, scenes=12, size=32, seed=seed)
    files = ["metadata.jsonl", "images/scene-00000.png", "images/scene-00011.png"]
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", files, shallow=False)[0] == files
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "c", files, shallow=False)[1] == files


def test_the_check_of_a_folder_finds_nothing_wrong_with_shapes(manifest, tmp_path):
    report = check_folder(manifest.folder, tmp_path)
    assert report.counts[:2] == ["400 images (train 360, val 20, test 20)", "2,000 captions"]
    assert not report.warnings
    assert not report.errors
