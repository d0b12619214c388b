import shutil

import numpy as np
import pytest

import dualpath
from dualpath.errors import ManifestError
from dualpath.inference.embed import embed_captions, embed_image_folder, embed_text_file


@pytest.fixture(scope="module")
def model(bundle):
    return dualpath.load(bundle)


def test_a_text_file_has_one_text_per_line(model, tmp_path):
    (tmp_path / "texts.txt").write_text("a red circle\n犬\n", "utf-8")
    columns, vectors = embed_text_file(model, tmp_path / "texts.txt")
    assert columns == {"text": ["a red circle", "犬"]}
    assert np.array_equal(vectors, model.embed_texts(["a red circle", "犬"]))


def test_captions_are_listed_with_their_images(model, shapes):
    columns, vectors = embed_captions(model, shapes)
    assert len(columns["file_name"]) == len(columns["text"]) == len(vectors) == 300
    assert columns["file_name"][:4] == ["images/scene-00000.png"] * 3 + ["images/scene-00001.png"]
    assert vectors[7] == pytest.approx(model.embed_texts([columns["text"][7]])[0], abs=1e-5)


@pytest.mark.parametrize("manifest", [True, False])
def test_images_are_embedded_with_and_without_a_manifest(model, shapes, cache, manifest):
    folder = shapes if manifest else shapes / "images"
    columns, vectors = embed_image_folder(model, folder, cache)
    assert len(columns["file_name"]) == len(vectors) == 100
    expected = model.embed_images([folder / columns["file_name"][7]])[0]
    assert vectors[7] == pytest.approx(expected, abs=1e-5)


def test_broken_images_are_named_or_left_out(model, shapes, cache, tmp_path):
    folder = shutil.copytree(shapes / "images", tmp_path / "images")
    (folder / "scene-00003.png").write_bytes(b"no image")
    with pytest.raises(ManifestError, match=r"1 image is broken.*\n.*scene-00003\.png"):
        embed_image_folder(model, folder, cache)
    columns, vectors = embed_image_folder(model, folder, cache, skip_broken=True)
    assert len(vectors) == len(columns["file_name"]) == 99
    assert "scene-00003.png" not in columns["file_name"]
