import io
import json

import pytest
from PIL import Image

from dualpath.data.images import image_state, open_image
from dualpath.data.manifest import read_manifest
from dualpath.errors import ImageError, ManifestError
from tests.conftest import STAGE, run_cli, small_recipe, train_quietly
from tests.data.files import write_tar


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (12, 9), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def shards(tmp_path):
    """Two archives with captions as text and as JSON, and a sample without an image."""
    folder = tmp_path / "set"
    write_tar(
        folder / "train-0000.tar",
        {
            "deep/a.png": png("red"),
            "deep/a.txt": b"a red image\n\nall of it is red\n",
            "b.seg.png": png("blue"),
            "b.json": json.dumps({"caption": "a blue one", "year": 1999}).encode(),
        },
    )
    values = {"captions": ["grün", "green"], "split": "test", "instance": 7}
    write_tar(
        folder / "val" / "0.tar",
        {
            "lonely.txt": b"no image",
            "c.json": json.dumps(values).encode(),
            "c.png": png("green"),
            "d.txt": b"nothing much",
            "d.png": png("white"),
        },
    )
    return folder


def test_samples_are_records_whose_images_are_read_from_the_archive(shards):
    images = {image.file_name: image for image in read_manifest(shards).images}
    assert set(images) == {
        "train-0000.tar/deep/a.png",
        "train-0000.tar/b.seg.png",
        "val/0.tar/c.png",
        "val/0.tar/d.png",
    }
    first = images["train-0000.tar/deep/a.png"]
    assert first.captions == ("a red image", "all of it is red")
    assert [images[name].split for name in images] == ["train", "train", "test", "val"]
    assert images["train-0000.tar/b.seg.png"].metadata == {"year": 1999}
    assert images["val/0.tar/c.png"].instance == "7"
    for name, colour in (
        ("train-0000.tar/deep/a.png", (255, 0, 0)),
        ("val/0.tar/d.png", (255,) * 3),
    ):
        image = open_image(images[name].path)
        assert image.size == (12, 9)
        assert image.getpixel((0, 0)) == colour


def test_a_file_that_is_not_in_the_archive_is_reported_as_missing(shards):
    missing = shards / "train-0000.tar" / "z.png"
    assert image_state(missing) is None
    with pytest.raises(ImageError, match=r"z\.png: cannot be read"):
        open_image(missing)
    assert image_state(shards / "val" / "0.tar" / "d.png")[0] == len(png("white"))


def test_a_changed_archive_is_read_again(shards):
    path = shards / "val" / "0.tar" / "d.png"
    assert open_image(path).getpixel((0, 0)) == (255, 255, 255)
    write_tar(shards / "val" / "0.tar", {"x.png": png("red"), "d.png": png("black")})
    assert open_image(path).getpixel((0, 0)) == (0, 0, 0)


def test_a_file_that_is_not_an_archive_is_named(tmp_path):
    (tmp_path / "bad.tar").write_bytes(b"x" * 2000)
    with pytest.raises(ManifestError, match=r"bad\.tar: not a tar archive"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"{not json", b"5"])
def test_a_sample_with_invalid_json_is_named(tmp_path, content):
    write_tar(tmp_path / "bad.tar", {"a.png": png("red"), "a.json": content})
    with pytest.raises(ManifestError, match=r"bad\.tar/a\.json: cannot be read"):
        read_manifest(tmp_path)


@pytest.mark.slow
def test_training_on_shards_equals_training_on_the_folder(shapes, tmp_path):
    packed = tmp_path / "packed"
    members: dict[str, dict[str, bytes]] = {}
    for number, image in enumerate(read_manifest(shapes).images):
        values = {"captions": image.captions, "split": image.split}
        shard = members.setdefault(f"set-{number // 40}.tar", {})
        shard[f"{number:05d}.png"] = image.path.read_bytes()
        shard[f"{number:05d}.json"] = json.dumps(values).encode()
    for name, files in members.items():
        write_tar(packed / name, files)
    recipe = small_recipe(stages=[{**STAGE, "name": "pixels", "backbone": "trained"}], workers=1)
    models = [
        train_quietly(recipe, data, tmp_path / f"out-{n}", cache=tmp_path / f"cache-{n}")
        for n, data in enumerate((shapes, packed))
    ]
    losses = [[epoch["losses"] for epoch in model.metrics["history"]] for model in models]
    assert losses[0] == losses[1]
    assert models[0].metrics["validation"] == models[1].metrics["validation"]


@pytest.mark.slow
def test_a_gallery_indexes_and_checks_images_inside_shards(shards, tmp_path, bundle):
    added = run_cli("gallery", "add", tmp_path / "gallery", shards, "--model", bundle)
    assert added.returncode == 0, added.stderr
    found = run_cli("search", tmp_path / "gallery", "a red image", "--json")
    assert found.stdout.count("train-0000.tar/deep/a.png") >= 1, found.stdout + found.stderr
    assert run_cli("gallery", "sync", tmp_path / "gallery").returncode == 0
    assert run_cli("gallery", "verify", tmp_path / "gallery").returncode == 0
