"""Pretrained image-text models as bundles."""

import numpy as np
import pytest
from PIL import Image

import dualpath
from dualpath.inference.pretrained import convert_pretrained
from tests.models.image_text.originals import FAMILIES, write_original
from tests.models.image_text.reference import (
    TEXTS,
    is_open_clip,
    odd_images,
    reference_images,
    reference_texts,
)

TOLERANCE = 1e-5  # of a cosine


@pytest.fixture(scope="session", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """The folder of a tiny original, and its bundle."""
    folder = tmp_path_factory.mktemp(request.param)
    write_original(request.param, folder / "original")
    return folder / "original", convert_pretrained(folder / "original", folder / "bundle")


def test_texts_have_the_embeddings_of_the_original_library(pair):
    original, bundle = pair
    vectors = dualpath.load(bundle).embed_texts(TEXTS)
    expected = reference_texts(original, TEXTS)
    assert (vectors * expected).sum(axis=1) == pytest.approx(1, abs=TOLERANCE)
    assert np.abs(expected[0] - expected[4]).max() > 0.01  # the texts differ


@pytest.fixture(scope="session")
def images_of(pair):
    """Images of any kind that the original library can read."""
    images = odd_images()
    if pair[0].parent.name.startswith("open_longest"):
        del images["one column"]  # open_clip gives it a width of 0
    return images


def test_images_of_any_kind_have_the_embeddings_of_the_original_library(pair, images_of):
    original, bundle = pair
    images = images_of
    vectors = dualpath.load(bundle).embed_images(list(images.values()))
    expected = reference_images(original, list(images.values()))
    cosines = dict(zip(images, (vectors * expected).sum(axis=1).tolist(), strict=True))
    assert cosines == pytest.approx(dict.fromkeys(images, 1), abs=TOLERANCE)
    assert np.abs(expected[0] - expected[1]).max() > 0.01


def test_image_files_have_the_embeddings_of_the_original_library(pair, tmp_path):
    original, bundle = pair
    photo = Image.effect_mandelbrot((900, 700), (-2, -1.5, 1, 1.5), 40).convert("RGB")
    photo.save(tmp_path / "large.jpg")
    odd_images()["alpha"].save(tmp_path / "alpha.png")
    odd_images()["transparent palette"].save(tmp_path / "palette.png")
    files = sorted(tmp_path.iterdir())
    vectors = dualpath.load(bundle).embed_images(files)
    expected = reference_images(original, [Image.open(file) for file in files])
    assert (vectors * expected).sum(axis=1) == pytest.approx(1, abs=TOLERANCE)


def test_pixels_differ_by_at_most_two_levels_from_the_default_backend_of_transformers(pair):
    original, bundle = pair
    if is_open_clip(original):
        pytest.skip("open_clip has one backend")
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(original)
    model = dualpath.load(bundle)
    image = model.recipe.image_encoder
    mean, std = (np.array(values)[:, None, None] for values in (image.mean, image.std))
    for one in odd_images().values():
        expected = np.asarray(processor(images=one, return_tensors="pt")["pixel_values"][0])
        levels = (expected * std + mean) * 255
        assert np.abs(levels - model.preprocess(one)[0]).max() < 2.01


def test_torch_computes_the_same_from_the_bundle_alone(pair, tmp_path):
    original, bundle = pair
    hidden = original.rename(tmp_path / "hidden")
    try:
        by_torch = dualpath.load(bundle, device="cpu", runtime="torch")
        by_onnx = dualpath.load(bundle)
        assert by_torch.exported == {}
        assert by_torch.fingerprint == by_onnx.fingerprint
        images = list(odd_images().values())[:4]
        for embed, inputs in (("embed_texts", TEXTS), ("embed_images", images)):
            vectors = [getattr(model, embed)(inputs) for model in (by_torch, by_onnx)]
            assert (vectors[0] * vectors[1]).sum(axis=1) == pytest.approx(1, abs=TOLERANCE)
    finally:
        hidden.rename(original)
