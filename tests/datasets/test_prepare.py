import sys
import types

import pytest

from dualpath.data.manifest import read_manifest
from dualpath.datasets import download as module
from dualpath.datasets.base import DatasetRow, DatasetSpec
from dualpath.datasets.download import RemoteFile
from dualpath.datasets.prepare import DATASETS, find_dataset, prepare
from dualpath.errors import DatasetError
from tests.conftest import run_cli
from tests.datasets.conftest import NAMES, karpathy_json


@pytest.mark.parametrize("name", DATASETS)
def test_every_registered_data_set_has_a_specification(name):
    spec = find_dataset(name)
    assert spec.summary
    assert set(spec.published) <= set(spec.splits)
    assert set(spec.downloads) <= set(spec.splits)


def test_a_new_data_set_is_a_module_and_a_line(raw, tmp_path, monkeypatch):
    def read(folder, split):
        return [DatasetRow(name, folder.find_image(name), (split,), "train") for name in NAMES]

    new_module = types.ModuleType("new_dataset")
    new_module.NEW = DatasetSpec("A new data set.", read)
    monkeypatch.setitem(sys.modules, "new_dataset", new_module)
    monkeypatch.setitem(DATASETS, "new", "new_dataset:NEW")
    prepare("new", raw, tmp_path / "out")
    images = read_manifest(tmp_path / "out").images
    assert [image.path.name for image in images] == NAMES
    assert images[0].captions == ("default",)


def test_an_unknown_data_set_is_an_error_that_lists_the_known_ones(tmp_path):
    with pytest.raises(DatasetError, match="'imagenet' does not exist; choose one of flickr8k, "):
        prepare("imagenet", tmp_path, tmp_path / "out")


def test_captions_are_downloaded_before_they_are_read(raw, tmp_path, monkeypatch):
    def write_json(file: RemoteFile, folder, _progress):
        (folder / "dataset_flickr8k.json").write_text(karpathy_json("flickr8k"))
        return folder / file.name

    monkeypatch.setattr(module, "download_file", write_json)
    lines = []
    prepare("flickr8k", raw, tmp_path / "out", download=True, log=lines.append)
    assert len(read_manifest(tmp_path / "out").images) == 6
    assert len(lines) == 1
    assert "caption_datasets.zip: captions of Flickr8k" in lines[0]


def test_a_data_set_that_cannot_be_downloaded_is_an_error(raw, tmp_path):
    with pytest.raises(DatasetError, match=r"cuhk_pedes: .* cannot be downloaded"):
        prepare("cuhk_pedes", raw, tmp_path / "out", download=True)


@pytest.mark.slow
def test_the_command_reports_missing_images_and_other_counts(raw, tmp_path):
    (raw / "dataset_flickr8k.json").write_text(karpathy_json("flickr8k"))
    (raw / "images" / NAMES[0]).unlink()
    done = run_cli("prepare", "flickr8k", "--raw", raw, "--out", tmp_path / "out")
    assert done.returncode == 0
    assert "2 train, 1 val, 2 test" in done.stdout
    assert f"1 images are missing and left out: {NAMES[0]}" in done.stderr
    assert "split train has 2 images, but 6,000 were published" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("flickr30k",), "dataset_flickr30k.json was found neither as a file nor inside a zip"),
        (("mscoco", "--split", "2020"), "mscoco has no split '2020'; choose one of"),
        (("cuhk_pedes",), "reid_raw.json was found neither"),
    ],
)
def test_the_command_fails_with_one_line_without_a_traceback(tmp_path, arguments, message):
    (tmp_path / "raw").mkdir()
    done = run_cli("prepare", *arguments, "--raw", tmp_path / "raw", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
