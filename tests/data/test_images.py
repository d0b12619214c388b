import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dualpath.data.images import image_size, open_image, scan_images
from dualpath.data.transforms import WHOLE, ImageTransform, View, fixed_views, random_crop, render
from dualpath.data.vector_store import VectorStore
from dualpath.errors import ImageError


def image(path, colour=(200, 10, 10), size=(40, 30)):
    Image.new("RGB", size, colour).save(path)
    return path


def png_claiming(width, height):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_images_of_every_mode_become_upright_rgb(tmp_path):
    for mode in ("1", "L", "P", "RGBA", "CMYK", "LA"):
        path = tmp_path / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (8, 6)).save(path)
        assert open_image(path).mode == "RGB"
    turned = Image.new("RGB", (8, 6))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (6, 8)


def test_what_is_wrong_with_a_image_is_told_with_its_name(tmp_path):
    whole = image(tmp_path / "whole.jpg", size=(300, 300)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "bomb.png").write_bytes(png_claiming(60_000, 60_000))
    for name, problem in {
        "cut.jpg": "cannot be decoded",
        "text.jpg": "not an image",
        "bomb.png": "too many pixels",
        "missing.jpg": "No such file",
    }.items():
        with pytest.raises(ImageError, match=rf"{name}: .*{problem}"):
            open_image(tmp_path / name)


def test_a_survey_finds_the_broken_and_remembers_the_sound(tmp_path):
    paths = [image(tmp_path / f"{i}.png", (i, 0, 0)) for i in range(3)]
    (tmp_path / "broken.jpg").write_text("x")
    paths.append(tmp_path / "broken.jpg")
    counted = []
    first = scan_images(paths, tmp_path / "cache", counted.append)
    assert first.sound.tolist() == [True, True, True, False]
    assert len(set(first.hashes[:3])) == 3
    assert list(first.broken) == [tmp_path / "broken.jpg"]
    assert sum(counted) == 4
    # A remembered image is not read again: nobody could, it is gone but for size and time.
    state = paths[0].stat()
    paths[0].write_bytes(b"\0" * state.st_size)
    os.utime(paths[0], ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (scan_images(paths, tmp_path / "cache").hashes == first.hashes).all()


def test_a_changed_image_gets_another_hash(tmp_path):
    path = image(tmp_path / "a.png")
    before = scan_images([path], tmp_path / "cache").hashes[0]
    image(path, (0, 200, 0), size=(41, 30))
    assert scan_images([path], tmp_path / "cache").hashes[0] != before


def test_the_whole_view_is_squashed_and_a_flipped_one_mirrored():
    half = Image.new("RGB", (100, 50), (255, 0, 0))
    half.paste((0, 0, 255), (50, 0, 100, 50))
    whole = render(half, View(), 8)
    assert whole.shape == (3, 8, 8)
    assert whole[:, 4, 0].tolist() == [255, 0, 0]
    assert whole[:, 4, 7].tolist() == [0, 0, 255]
    assert render(half, View(flipped=True), 8).equal(whole.flip(2))


def test_fixed_views_are_the_whole_and_crops_each_mirrored():
    names = [view.name for view in fixed_views(flip=True, crops=1)]
    assert names == ["whole", "whole-flipped", "crop-0", "crop-0-flipped"]
    assert [view.name for view in fixed_views(flip=False, crops=0)] == ["whole"]


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


def hashes(*numbers):
    return [f"{number:032x}" for number in numbers]


def test_vectors_are_kept_under_their_hash(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    store = VectorStore(tmp_path, 5)
    store.add(hashes(1, 2), vectors[:2])
    store.add(hashes(2, 3), vectors[[0, 2]])  # 2 is there already and stays as it is
    again = VectorStore(tmp_path, 5)
    assert len(again) == 3
    assert np.array_equal(again.vectors()[again.rows(hashes(3, 1, 2))], vectors[[2, 0, 1]])
    assert again.find(hashes(4, 3)).tolist() == [-1, 2]
    assert again.first_missing(hashes(5, 1, 4, 5)).tolist() == [0, 2]
    with pytest.raises(KeyError):
        again.rows(hashes(1, 4))


@pytest.mark.parametrize("lost", ["half a vector", "the hash", "half the hash"])
def test_a_store_whose_filling_was_killed_is_cut_to_what_is_whole(tmp_path, lost):
    vectors = np.arange(10, dtype=np.float32).reshape(2, 5)
    VectorStore(tmp_path, 5).add(hashes(1, 2), vectors)
    if lost == "half a vector":
        with (tmp_path / "vectors.f32").open("ab") as file:
            file.write(b"\1" * 7)
    else:
        os.truncate(tmp_path / "hashes.txt", 33 if lost == "the hash" else 50)
    store = VectorStore(tmp_path, 5)
    assert len(store) == (2 if lost == "half a vector" else 1)
    store.add(hashes(2, 7), vectors[[1, 0]])
    again = VectorStore(tmp_path, 5)
    assert np.array_equal(again.vectors()[again.rows(hashes(1, 2, 7))], vectors[[0, 1, 0]])


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_only_as_large_as_it_is_needed(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    gradient = np.linspace(0, 255, 1600, dtype=np.uint8)[None, :, None].repeat(1200, axis=0)
    whole = Image.fromarray(gradient.repeat(3, axis=2))
    path = tmp_path / "large.jpg"
    whole.save(path, quality=95, exif=exif)
    small, full = open_image(path, side=448), open_image(path)
    upright = (1600, 1200) if orientation == 1 else (1200, 1600)
    assert full.size == image_size(path.read_bytes(), "large") == upright
    assert small.size == tuple(length // 2 for length in upright)
    views = [np.asarray(render(one, WHOLE, 224), dtype=int) for one in (small, full)]
    assert abs(views[0] - views[1]).mean() < 1


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("count", [0, 1, 8, 21])
def test_threads_render_the_same_batches_in_order(tmp_path, workers, count):
    paths = [image(tmp_path / f"{i}.png", (10 * i, 0, 255), (30 + i, 40)) for i in range(count)]
    renderer = ImageTransform(fixed_views(flip=True, crops=1), 16)
    batches = list(renderer.batches(paths, 4, workers))
    assert [len(batch) for batch in batches] == [4] * (count // 4) + [count % 4] * (count % 4 > 0)
    for path, rendered in zip(paths, (one for batch in batches for one in batch), strict=True):
        for view, seen in zip(renderer.views, rendered, strict=True):
            assert seen.equal(render(open_image(path), view, 16))


def test_a_image_that_breaks_in_a_thread_is_named(tmp_path):
    paths = [image(tmp_path / f"{i}.png") for i in range(40)]
    paths[9].write_bytes(b"no image")
    batches = ImageTransform([View()], 16).batches(paths, 4, 2)
    assert len(next(batches)) == len(next(batches)) == 4
    with pytest.raises(ImageError, match=r"9\.png: not an image"):
        next(batches)
