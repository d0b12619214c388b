"""Pixels of every depth, transparency and colour profile are those that a viewer shows."""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

import dualpath
from dualpath.data.images import decode_image, image_hash, image_key
from dualpath.data.pixels import has_alpha, to_rgb
from tests.robustness.files import SIZE, encode, photo

Array = npt.NDArray[np.int64]


def decoded(image: Image.Image, format: str = "PNG", **options: object) -> Array:
    return np.asarray(decode_image(encode(image, format, **options), "x"), np.int64)


def grey_ramp() -> npt.NDArray[np.uint8]:
    return np.arange(256, dtype=np.uint8)[None].repeat(8, axis=0)


def as_rgb(grey: npt.NDArray[np.uint8]) -> Array:
    return grey[:, :, None].repeat(3, axis=2).astype(np.int64)


@pytest.fixture(scope="module")
def model(bundle: Path) -> dualpath.DualPath:
    return dualpath.load(bundle)


# Range: every image has an 8-bit twin.

RANGES = {
    "16-bit-png": (lambda g: Image.fromarray(g.astype(np.uint16) * 257), "PNG"),
    "16-bit-tiff": (lambda g: Image.fromarray(g.astype(np.uint16) * 257), "TIFF"),
    "32-bit-tiff-of-16-bits": (lambda g: Image.fromarray(g.astype(np.int32) * 257), "TIFF"),
    "32-bit-tiff-of-8-bits": (lambda g: Image.fromarray(g.astype(np.int32)), "TIFF"),
    "32-bit-tiff-of-24-bits": (lambda g: Image.fromarray(g.astype(np.int32) * 65_793), "TIFF"),
    "float-to-1": (lambda g: Image.fromarray(g.astype(np.float32) / 255), "TIFF"),
    "float-to-255": (lambda g: Image.fromarray(g.astype(np.float32)), "TIFF"),
    "float-to-65535": (lambda g: Image.fromarray(g.astype(np.float32) * 257), "TIFF"),
    "float-signed": (lambda g: Image.fromarray(g.astype(np.float32) - 128), "TIFF"),
    "8-bit": (Image.fromarray, "PNG"),
}


@pytest.mark.parametrize("name", RANGES)
def test_a_deep_ramp_equals_its_8_bit_twin(name):
    make, format = RANGES[name]
    assert np.abs(decoded(make(grey_ramp()), format) - as_rgb(grey_ramp())).max() <= 1


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_both_byte_orders_of_16_bits_are_read(dtype):
    raw = (grey_ramp().astype(np.uint16) * 257).astype(dtype)
    mode = "I;16" if dtype == "<u2" else "I;16B"
    image = Image.frombytes(mode, (256, 8), raw.tobytes())
    assert (np.asarray(to_rgb(image), int) == as_rgb(grey_ramp())).all()


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_do_not_change_the_others(special):
    values = grey_ramp().astype(np.float32) / 255
    values[0, 0] = special
    pixels = decoded(Image.fromarray(values), "TIFF")
    assert (pixels[1:] == as_rgb(grey_ramp())[1:]).all()
    assert pixels[0, 0].tolist() == [255 if special == np.inf else 0] * 3


def test_highlights_of_a_float_image_are_clipped():
    values = np.full((40, 40), 0.5, np.float32)
    values[0, :3] = 7.5
    pixels = decoded(Image.fromarray(values), "TIFF")
    assert pixels[20, 20].tolist() == [128] * 3
    assert pixels[0, 0].tolist() == [255] * 3


@pytest.mark.parametrize("value", [np.nan, 0.0, 1.0, 255.0, -5.0])
def test_a_float_image_of_one_value_is_decoded(value):
    assert decoded(Image.fromarray(np.full((4, 4), value, np.float32)), "TIFF").shape == (4, 4, 3)


# Transparency.


def transparent(under: tuple[int, int, int]) -> Image.Image:
    """A photo with a transparent half; the colour of its pixels cannot be seen."""
    image = photo().convert("RGBA")
    image.paste((*under, 0), (SIZE[0] // 2, 0, *SIZE))
    return image


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("under", [(0, 0, 0), (255, 0, 0), (1, 2, 3), (255, 255, 255)])
def test_colours_under_full_transparency_change_nothing(model, format, under):
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    white = decoded(transparent((255, 255, 255)), format, **options)
    other = decoded(transparent(under), format, **options)
    assert (white == other).all()
    assert (other[:, SIZE[0] // 2 :] == 255).all()
    images = [Image.fromarray(pixels.astype(np.uint8)) for pixels in (white, other)]
    vectors = model.embed_images([*images, transparent(under)])
    assert vectors[0] @ vectors[1] == pytest.approx(1, abs=1e-6)
    assert vectors[0] @ vectors[2] == pytest.approx(1, abs=1e-6)


def logo(colour: int | tuple[int, int, int], mode: str) -> Image.Image:
    """A disc on transparency."""
    mask = np.hypot(*np.mgrid[-20:20, -20:20]) < 12
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    drawn = (colour,) * 3 if isinstance(colour, int) else colour
    image.paste((*drawn, 255), mask=Image.fromarray((mask * 255).astype(np.uint8)))
    if mode != "PA":
        return image.convert(mode)
    # Converting to PA chooses a palette of its own in each version of Pillow.
    palette = Image.new("PA", image.size)
    palette.putpalette([0, 0, 0, *drawn])
    palette.putdata([(int(alpha > 0), alpha) for alpha in image.getchannel("A").tobytes()])
    return palette


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
@pytest.mark.parametrize(
    ("colour", "background"),
    [(0, 255), (60, 255), (128, 255), (199, 255), (201, 0), (230, 0), (255, 0)],
)
def test_a_logo_of_any_grey_can_be_seen(mode, colour, background):
    pixels = np.asarray(to_rgb(logo(colour, mode)), int)
    assert pixels[0, 0].tolist() == [background] * 3
    assert pixels[20, 20].tolist() == pytest.approx([colour] * 3, abs=2)
    assert np.ptp(pixels) > 50


@pytest.mark.parametrize("colour", [(255, 0, 0), (255, 255, 0), (0, 200, 255), (255, 240, 245)])
def test_a_coloured_logo_can_be_seen(colour):
    pixels = np.asarray(to_rgb(logo(colour, "RGBA")), int)
    light = pixels[0, 0, 0] == 0
    assert light == (Image.new("RGB", (1, 1), colour).convert("L").getpixel((0, 0)) >= 200)
    assert pixels[20, 20].tolist() == list(colour)


def test_a_page_with_some_dark_text_keeps_its_white_background():
    page = Image.new("RGBA", (100, 100), (255, 255, 255, 255))
    page.paste((0, 0, 0, 255), (10, 10, 30, 30))
    page.paste((0, 0, 0, 0), (90, 90, 100, 100))
    assert np.asarray(to_rgb(page), int)[95, 95].tolist() == [255] * 3


@pytest.mark.parametrize("alpha", [1, 64, 127])
def test_a_faint_white_mark_can_be_seen(alpha):
    pixels = np.asarray(to_rgb(Image.new("RGBA", (8, 8), (255, 255, 255, alpha))), int)
    assert pixels.max() == pytest.approx(alpha, abs=1)


def test_a_fully_transparent_image_is_white():
    assert (np.asarray(to_rgb(Image.new("RGBA", (8, 8), (9, 9, 9, 0)))) == 255).all()


def test_alpha_without_a_transparent_pixel_changes_nothing():
    assert (decoded(photo().convert("RGBA")) == np.asarray(photo())).all()
    content = encode(photo().convert("RGBA"))
    assert image_key(content, "x") == image_hash(content)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_a_transparent_colour_of_png_and_gif_is_white(mode):
    image = Image.new("RGB", (20, 20), (10, 10, 10))
    image.paste((200, 30, 30), (5, 5, 15, 15))
    image = image.convert(mode, palette=Image.Palette.ADAPTIVE, colors=4)
    key = image.getpixel((0, 0))
    content = encode(image, "PNG", transparency=key)
    assert has_alpha(Image.open(io.BytesIO(content)))
    pixels = np.asarray(decode_image(content, "x"), int)
    if mode != "1":
        assert pixels[0, 0].tolist() == [255] * 3
    if mode == "P":
        gif = np.asarray(decode_image(encode(image, "GIF", transparency=key), "x"), int)
        assert (gif == pixels).all()


def test_half_transparent_pixels_are_blended_with_white():
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert decoded(image)[0, 0].tolist() == pytest.approx([127] * 3, abs=1)


def test_the_key_of_caches_changes_where_pixels_are_converted():
    plain, deep = encode(photo()), encode(transparent((9, 9, 9)))
    assert image_key(plain, "x") == image_hash(plain)
    assert image_key(deep, "x") != image_hash(deep)


# Colour profiles.


def profile_bytes(name: str) -> bytes:
    return bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes())


def swapped_profile() -> bytes:
    """An sRGB profile whose red and blue are exchanged: a wrong reading is seen at once."""
    content = bytearray(profile_bytes("sRGB"))
    count = int.from_bytes(content[128:132], "big")
    offsets = {}
    for number in range(count):
        start = 132 + 12 * number
        offsets[bytes(content[start : start + 4])] = start
    red, blue = offsets[b"rXYZ"], offsets[b"bXYZ"]
    content[red : red + 4], content[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(content)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_an_embedded_profile_is_converted(format):
    options = {"quality": 95} if format not in ("PNG", "TIFF") else {}
    try:
        pixels = decoded(
            Image.new("RGB", (16, 16), (200, 40, 10)),
            format,
            icc_profile=swapped_profile(),
            **options,
        )
    except (OSError, KeyError):
        pytest.skip(f"{format} cannot be written here")
    assert pixels[8, 8].tolist() == pytest.approx([10, 40, 200], abs=8)


def test_alpha_and_profile_are_both_used():
    image = Image.new("RGBA", (8, 8), (200, 40, 10, 255))
    image.paste((0, 0, 0, 0), (0, 0, 4, 8))
    pixels = decoded(image, "PNG", icc_profile=swapped_profile())
    assert pixels[0, 0].tolist() == [255] * 3
    assert pixels[6, 6].tolist() == pytest.approx([10, 40, 200], abs=2)


def test_a_profile_of_srgb_changes_no_bit():
    for options in ({"icc_profile": profile_bytes("sRGB")}, {}):
        assert (decoded(photo(), "PNG", **options) == np.asarray(photo())).all()
        content = encode(photo(), "PNG", **options)
        assert image_key(content, "x") == image_hash(content)


@pytest.mark.parametrize(
    "profile",
    [b"", b"noise", b"\0" * 200, profile_bytes("sRGB")[:200], profile_bytes("XYZ"),
     profile_bytes("LAB"), b"x" * 100_000],
    ids=["empty", "noise", "zeros", "cut", "xyz", "lab", "long"],
)  # fmt: skip
def test_a_profile_that_cannot_be_used_is_ignored_as_viewers_do(profile):
    assert (decoded(photo(), "PNG", icc_profile=profile) == np.asarray(photo())).all()


@pytest.mark.parametrize("mode", ["L", "LA", "CMYK", "YCbCr"])
def test_a_profile_of_another_colour_space_is_ignored(mode):
    image = Image.new("RGB", (8, 8), (120, 120, 120)).convert(mode)
    image.info["icc_profile"] = swapped_profile()
    assert np.asarray(to_rgb(image), int)[4, 4].tolist() == pytest.approx([120] * 3, abs=3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV"])
def test_images_without_alpha_and_profile_are_as_pillow_converts_them(mode):
    image = photo().convert(mode)
    assert (np.asarray(to_rgb(image)) == np.asarray(image.convert("RGB"))).all()


def test_lab_is_converted():
    lab = ImageCms.applyTransform(
        photo(),
        ImageCms.buildTransform(
            ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
        ),
    )
    assert lab is not None
    assert np.abs(decoded(lab, "TIFF") - np.asarray(photo(), int)).mean() < 4


def test_deep_images_have_the_vector_of_their_8_bit_twin(model):
    grey = np.asarray(photo().convert("L"))
    twins = [Image.fromarray(grey), *(make(grey) for make, _ in RANGES.values())]
    vectors = model.embed_images(twins)
    # All but those whose range is stretched, since this photo has no black or no white.
    cosines = dict(zip(RANGES, vectors[1:] @ vectors[0], strict=True))
    for name in ("16-bit-png", "16-bit-tiff", "float-to-1", "float-to-255", "float-to-65535"):
        assert cosines[name] > 0.9999, name
    assert min(cosines.values()) > 0.5
