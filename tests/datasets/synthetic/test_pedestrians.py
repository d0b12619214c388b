import filecmp

import pytest
from PIL import Image

from dualpath.data.manifest import read_manifest
from dualpath.datasets.synthetic.pedestrians import write_pedestrians
from tests.conftest import run_cli

VIEWS = [f"images/person-00003-{view}.jpg" for view in range(4)]


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    write_pedestrians(folder, identities=40, views=4, captions=2, size=64, seed=2)
    return folder


def test_all_images_of_an_identity_are_in_one_split(people):
    manifest = read_manifest(people)
    people_of = {
        split: {image.instance for image in manifest.split(split).images}
        for split in manifest.splits
    }
    counts = {split: len(names) for split, names in people_of.items()}
    assert counts == {"train": 28, "val": 4, "test": 8}
    assert len(set.union(*people_of.values())) == 40
    assert all(len(set(image.captions)) == 2 for image in manifest.images)


@pytest.mark.slow
def test_every_word_of_the_test_split_occurs_in_training(tmp_path):
    write_pedestrians(tmp_path, identities=200, size=32)
    manifest = read_manifest(tmp_path)

    def words(split):
        return {w for caption in manifest.split(split).images.captions for w in caption.split()}

    assert words("test") <= words("train")


def test_the_same_seed_writes_the_same_files(people, tmp_path):
    write_pedestrians(tmp_path, identities=40, views=4, captions=2, size=64, seed=2)
    names = ["metadata.jsonl", *VIEWS]
    match, different, missing = filecmp.cmpfiles(people, tmp_path, names, shallow=False)
    assert (match, different, missing) == (names, [], [])


def test_the_views_of_a_person_differ(people):
    assert len({(people / name).read_bytes() for name in VIEWS}) == 4
    assert Image.open(people / VIEWS[0]).size == (32, 64)


@pytest.mark.slow
def test_the_command_counts_people_and_images(tmp_path):
    done = run_cli("prepare", "pedestrians", "--out", tmp_path, "--identities", 10, "--size", 32)
    assert done.returncode == 0, done.stderr
    assert "10 people, 40 images" in done.stdout
