import io
import json
import tarfile

import pytest
from PIL import Image

from dualpath.data.images import image_state, open_image
from dualpath.data.manifest import read_manifest
from dualpath.errors import ImageError, ManifestError
from dualpath.training.train import train
from tests.conftest import STAGE, quiet, run_cli, small_recipe


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (12, 9), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def shards(tmp_path):
    """Captions in text and in JSON, one or a list; a sample without an image."""
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
    told = {"captions": ["grün", "green"], "split": "test", "instance": 7}
    write_tar(
        folder / "val" / "0.tar",
        {
            "lonely.txt": b"no image",
            "c.json": json.dumps(told).encode(),
            "c.png": png("green"),
            "d.txt": b"nothing much",
            "d.png": png("white"),
        },
    )
    return folder


def test_samples_are_items_whose_images_are_read_in_place(shards):
    items = {item.file_name: item for item in read_manifest(shards).items}
    assert set(items) == {
        "train-0000.tar/deep/a.png",
        "train-0000.tar/b.seg.png",
        "val/0.tar/c.png",
        "val/0.tar/d.png",
    }
    first = items["train-0000.tar/deep/a.png"]
    assert first.captions == ("a red image", "all of it is red")
    assert [items[name].split for name in items] == ["train", "train", "test", "val"]
    assert items["train-0000.tar/b.seg.png"].metadata == {"year": 1999}
    assert items["val/0.tar/c.png"].instance == "7"
    for name, colour in (
        ("train-0000.tar/deep/a.png", (255, 0, 0)),
        ("val/0.tar/d.png", (255,) * 3),
    ):
        image = open_image(items[name].path)
        assert image.size == (12, 9)
        assert image.getpixel((0, 0)) == colour


def test_what_is_not_in_an_archive_is_told_like_a_missing_file(shards):
    missing = shards / "train-0000.tar" / "z.png"
    assert image_state(missing) is None
    with pytest.raises(ImageError, match=r"z\.png: cannot be read"):
        open_image(missing)
    assert image_state(shards / "val" / "0.tar" / "d.png")[0] == len(png("white"))


def test_an_archive_that_changes_is_read_anew(shards):
    path = shards / "val" / "0.tar" / "d.png"
    assert open_image(path).getpixel((0, 0)) == (255, 255, 255)
    write_tar(shards / "val" / "0.tar", {"x.png": png("red"), "d.png": png("black")})
    assert open_image(path).getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"x" * 2000, r"bad\.tar: not a tar archive"), (None, r"bad\.tar/a\.json: cannot be read")],
)
def test_a_bad_archive_is_named(tmp_path, content, message):
    if content is None:
        write_tar(tmp_path / "bad.tar", {"a.png": png("red"), "a.json": b"{not json"})
    else:
        (tmp_path / "bad.tar").write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        read_manifest(tmp_path)


def test_training_on_shards_is_training_on_the_folder(shapes, tmp_path):
    packed = tmp_path / "packed"
    members: dict[str, dict[str, bytes]] = {}
    for number, item in enumerate(read_manifest(shapes).items):
        told = {"captions": item.captions, "split": item.split}
        shard = members.setdefault(f"set-{number // 40}.tar", {})
        shard[f"{number:05d}.png"] = item.path.read_bytes()
        shard[f"{number:05d}.json"] = json.dumps(told).encode()
    for name, files in members.items():
        write_tar(packed / name, files)
    recipe = small_recipe(stages=[{**STAGE, "name": "pixels", "backbone": "trained"}], workers=1)
    models = [
        train(recipe, data, tmp_path / f"out-{n}", cache=tmp_path / f"cache-{n}", display=quiet())
        for n, data in enumerate((shapes, packed))
    ]
    losses = [[epoch["losses"] for epoch in model.metrics["history"]] for model in models]
    assert losses[0] == losses[1]
    assert models[0].metrics["validation"] == models[1].metrics["validation"]


def test_a_gallery_of_shards(shards, tmp_path, bundle):
    added = run_cli("gallery", "add", tmp_path / "gallery", shards, "--model", bundle)
    assert added.returncode == 0, added.stderr
    found = run_cli("search", tmp_path / "gallery", "a red image", "--json")
    assert found.stdout.count("train-0000.tar/deep/a.png") >= 1, found.stdout + found.stderr
    assert run_cli("gallery", "sync", tmp_path / "gallery").returncode == 0
    assert run_cli("gallery", "verify", tmp_path / "gallery").returncode == 0
