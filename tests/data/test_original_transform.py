"""Pixels of pretrained image-text models; test_pretrained.py compares them with the libraries."""

import time

import numpy as np
import pytest
from PIL import Image

from dualpath.data import original_transform
from dualpath.data.original_transform import OriginalTransform, original_pixels
from dualpath.data.transforms import WHOLE, View
from dualpath.recipes.preprocessing import PreprocessingRecipe
from tests.models.image_text.reference import odd_images

CROP = PreprocessingRecipe(resize="shorter_side", size=24, crop="floor")


@pytest.mark.parametrize("name", ["tall", "wide", "odd", "one column", "alpha", "grey"])
@pytest.mark.parametrize("crop", ["floor", "round"])
def test_resampling_only_what_the_crop_shows_gives_the_same_pixels(name, crop, monkeypatch):
    recipe = CROP.model_copy(update={"crop": crop})
    whole = original_pixels(odd_images()[name], recipe, 20)
    monkeypatch.setattr(original_transform, "_MAX_RESIZED", 0)
    part = original_pixels(odd_images()[name], recipe, 20)
    assert np.abs(whole.astype(int) - part).max() <= 1


def test_a_long_strip_needs_little_memory_and_time():
    begin = time.process_time()
    pixels = original_pixels(Image.new("RGB", (1, 60_000), (1, 2, 3)), CROP, 24)
    assert pixels.reshape(3, -1).T.tolist() == [[1, 2, 3]] * 24**2
    assert time.process_time() - begin < 2


@pytest.mark.parametrize(("convert", "expected"), [("white", 255), ("drop", 0), ("after", 0)])
def test_transparent_pixels_become_white_or_lose_their_transparency(convert, expected):
    recipe = PreprocessingRecipe(size=8, convert=convert)
    pixels = original_pixels(Image.new("RGBA", (9, 9), (0, 0, 0, 0)), recipe, 8)
    assert np.unique(pixels).tolist() == [expected]


def test_views_may_be_mirrored():
    transform = OriginalTransform([WHOLE, View(flipped=True)], 24, preprocessing=CROP)
    upright, mirrored = transform(odd_images()["square"])
    assert (upright == mirrored[:, :, ::-1]).all()


def test_an_aspect_ratio_that_stays_needs_a_crop():
    with pytest.raises(ValueError, match="must be cropped"):
        PreprocessingRecipe(resize="shorter_side", size=8)
