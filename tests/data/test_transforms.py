import numpy as np
import pytest
from PIL import Image

from dualpath.data.images import open_image
from dualpath.data.transforms import (
    ImageTransform,
    View,
    fixed_views,
    preprocess,
    random_crop,
)
from dualpath.errors import ImageError
from tests.data.files import save_image


def test_the_whole_view_is_squashed_and_a_flipped_view_is_mirrored():
    half = Image.new("RGB", (100, 50), (255, 0, 0))
    half.paste((0, 0, 255), (50, 0, 100, 50))
    whole = preprocess(half, View(), 8)
    assert whole.shape == (3, 8, 8)
    assert whole.dtype == np.uint8
    assert whole[:, 4, 0].tolist() == [255, 0, 0]
    assert whole[:, 4, 7].tolist() == [0, 0, 255]
    assert np.array_equal(preprocess(half, View(flipped=True), 8), whole[:, :, ::-1])


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"flip": True, "crops": 1}, ["whole", "whole-flipped", "crop-0", "crop-0-flipped"]),
        ({"flip": False, "crops": 0}, ["whole"]),
    ],
)
def test_fixed_views_are_the_whole_and_crops_each_mirrored(options, names):
    assert [view.name for view in fixed_views(**options)] == names


@pytest.mark.parametrize(("width", "height"), [(224, 224), (640, 100), (37, 400)])
def test_crops_stay_inside_with_the_aspect_and_area_of_the_paper(width, height):
    for seed in range(200):
        left, top, right, bottom = random_crop(width, height, seed)
        assert 0 <= left < right <= width + 1e-9
        assert 0 <= top < bottom <= height + 1e-9
        ratio = (right - left) / (bottom - top)
        assert 3 / 4 - 1e-6 <= ratio <= 4 / 3 + 1e-6
        largest_width = min(width, height * ratio)
        share = (right - left) * (bottom - top) / (largest_width**2 / ratio)
        assert 0.64 - 1e-6 <= share <= 1 + 1e-6


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("count", [0, 1, 8, 21])
def test_threads_yield_the_same_batches_in_the_same_order(tmp_path, workers, count):
    paths = [
        save_image(tmp_path / f"{i}.png", (10 * i, 0, 255), (30 + i, 40)) for i in range(count)
    ]
    transform = ImageTransform(fixed_views(flip=True, crops=1), 16)
    batches = list(transform.batches(paths, 4, workers))
    assert [len(batch) for batch in batches] == [4] * (count // 4) + [count % 4] * (count % 4 > 0)
    images = [image for batch in batches for image in batch]
    for path, views in zip(paths, images, strict=True):
        for view, pixels in zip(transform.views, views, strict=True):
            assert np.array_equal(pixels, preprocess(open_image(path), view, 16))


def test_an_image_that_cannot_be_decoded_in_a_thread_is_named(tmp_path):
    paths = [save_image(tmp_path / f"{i}.png") for i in range(40)]
    paths[9].write_bytes(b"no image")
    batches = ImageTransform([View()], 16).batches(paths, 4, 2)
    assert len(next(batches)) == len(next(batches)) == 4
    with pytest.raises(ImageError, match=r"9\.png: not an image"):
        next(batches)
