import pytest

from dualpath.datasets.prepare import prepare
from dualpath.errors import DatasetError
from tests.datasets.conftest import NAMES, names_by_split


def write_official_files(raw, token_file):
    lines = [f"{image}#{k}\tA man , number {k} ." for image in NAMES for k in range(5)]
    (raw / token_file).write_text("\n".join(lines) + "\n")
    lists = {"train": NAMES[:2], "dev": NAMES[2:3], "test": NAMES[4:5]}
    for part, names in lists.items():
        (raw / f"Flickr_8k.{part}Images.txt").write_text("\n".join(names) + "\n")


def test_flickr30k_images_outside_the_lists_of_flickr8k_are_training_images(raw, tmp_path):
    write_official_files(raw, "results_20130124.token")
    prepare("flickr30k", raw, tmp_path / "out", split="flickr8k-lists")
    assert names_by_split(tmp_path / "out") == {
        "train": [NAMES[0], NAMES[1], NAMES[3], NAMES[5]],
        "val": [NAMES[2]],
        "test": [NAMES[4]],
    }


def test_flickr8k_images_outside_its_lists_are_left_out(raw, tmp_path):
    write_official_files(raw, "Flickr8k.token.txt")
    prepare("flickr8k", raw, tmp_path / "out", split="flickr8k-lists")
    assert names_by_split(tmp_path / "out") == {
        "train": NAMES[:2],
        "val": [NAMES[2]],
        "test": [NAMES[4]],
    }


def test_an_invalid_line_of_a_token_file_is_named(raw, tmp_path):
    write_official_files(raw, "results_20130124.token")
    (raw / "results_20130124.token").write_text("a.jpg#0\tfine\nno tab here\n")
    with pytest.raises(DatasetError, match=r"results_20130124\.token:2: a line must be"):
        prepare("flickr30k", raw, tmp_path / "out", split="flickr8k-lists")
