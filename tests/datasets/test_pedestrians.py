import filecmp

import pytest
from PIL import Image

from dualpath.data.manifest import read_manifest
from dualpath.datasets.synthetic.pedestrians import write_pedestrians
from tests.conftest import run_cli


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    write_pedestrians(folder, identities=40, views=4, captions=2, size=64, seed=2)
    return folder


def test_identities_are_shared_out_over_the_splits(people):
    manifest = read_manifest(people)
    of = {split: {i.instance for i in manifest.split(split).items} for split in manifest.splits}
    assert {split: len(names) for split, names in of.items()} == {"train": 28, "val": 4, "test": 8}
    assert len(set.union(*of.values())) == 40
    assert all(len(set(item.captions)) == 2 for item in manifest.items)


def test_every_word_of_the_test_is_in_the_training(tmp_path):
    write_pedestrians(tmp_path, identities=200, size=32)
    manifest = read_manifest(tmp_path)

    def words(split):
        items = manifest.split(split).items
        return {w for item in items for caption in item.captions for w in caption.split()}

    assert words("test") <= words("train")


def test_views_of_a_person_differ_and_the_same_seed_gives_the_same_files(people, tmp_path):
    write_pedestrians(tmp_path, identities=40, views=4, captions=2, size=64, seed=2)
    names = ["metadata.jsonl", *(f"images/person-00003-{view}.jpg" for view in range(4))]
    match, different, missing = filecmp.cmpfiles(people, tmp_path, names, shallow=False)
    assert (match, different, missing) == (names, [], [])
    views = {(people / name).read_bytes() for name in names[1:]}
    assert len(views) == 4
    assert Image.open(people / names[1]).size == (32, 64)


def test_the_command(tmp_path):
    done = run_cli("prepare", "pedestrians", "--out", tmp_path, "--identities", 10, "--size", 32)
    assert done.returncode == 0, done.stderr
    assert "10 people, 40 images" in done.stdout
