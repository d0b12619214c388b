"""From the pixels of any image file to 8-bit sRGB, as a viewer shows them.

Three steps, each of which leaves an ordinary 8-bit RGB image without colour profile unchanged:

1. **Range.** 16-bit values are divided by 257. Floating-point values in 0 to 1 are multiplied by
   255, those in 0 to 255 are used as they are, those in 0 to 65,535 are divided by 257; other
   floating-point and 32-bit values are stretched from their smallest to their largest. NaN is
   black.
2. **Colour.** An embedded ICC profile is converted to sRGB (relative colorimetric, with black point
   compensation). CMYK and grey images without a profile are converted by Pillow.
3. **Background.** Transparent pixels show white. If at least 99 % of the visible pixels are lighter
   than 200 of 255, as in a white logo, they would vanish, so the background is black.
"""

import io
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

_WHITE, _BLACK = 255, 0
_LIGHT = 200  # luminance from which a pixel is hard to see on white
_VISIBLE = 128  # alpha
_DARK_SHARE = 0.01  # of the visible pixels; with fewer dark ones the background is black
_ROWS = 512  # converted at a time, to limit memory
_PROFILES = 64  # whose conversions are remembered
_MAX_PROFILE = 4 * 2**20  # bytes
_SAME = 2  # levels of 255; a conversion that changes nothing more is left out
_GREY_MODES = ("1", "L", "LA", "La")
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
_PROFILE_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}  # by the mode of the image
_WIDE_RANGES = (255.0, 65_535.0)


class Converted(NamedTuple):
    """An image as 8-bit sRGB, and whether that differs from Pillow's ``convert("RGB")``."""

    image: Image.Image
    changed: bool


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image as 8-bit sRGB; see the documentation of this module.

    >>> to_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    >>> to_rgb(Image.new("I;16", (1, 1), 32896)).getpixel((0, 0))
    (128, 128, 128)
    """
    return convert(image).image


def convert(image: Image.Image) -> Converted:
    """Return an image as 8-bit sRGB, and whether its range, colours or background changed."""
    profile, changed = image.info.get("icc_profile"), False
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        image, changed = _to_8_bits(image), True
    grey = image.mode in _GREY_MODES
    alpha = None
    if has_alpha(image):
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        if alpha.getextrema() == (255, 255):
            alpha = None
    mode = image.mode if image.mode in ("CMYK", "LAB") else "L" if grey else "RGB"
    transform = _lab_transform() if mode == "LAB" else _profile_transform(profile, mode)
    if transform is not None:
        image, changed = transform.apply(image.convert(mode)), True
    rgb = image.convert("RGB")
    if alpha is None:
        return Converted(rgb, changed)
    return Converted(_on_background(rgb, alpha), changed=True)


def has_alpha(image: Image.Image) -> bool:
    """Return whether an image may have transparent pixels."""
    return image.mode in _ALPHA_MODES or "transparency" in image.info


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Return a grey image of 16 or 32 bits a pixel with 8 bits a pixel, mode ``L``."""
    values = np.asarray(image)
    low, high = _range(image, values)
    scaled = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _ROWS):
        rows = values[start : start + _ROWS].astype(np.float64)
        rows = (np.nan_to_num(rows, nan=low, posinf=high, neginf=low) - low) * (255 / (high - low))
        scaled[start : start + _ROWS] = np.clip(np.rint(rows), 0, 255)
    return Image.fromarray(scaled)


def _range(image: Image.Image, values: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the values that become black and white."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return 0.0, 65_535.0  # before version 11, Pillow opened 16-bit PNG as mode I
    finite = values[np.isfinite(values)] if image.mode == "F" else values.ravel()
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    if image.mode == "F" and low >= 0 and float(np.quantile(finite, 0.99)) <= 1:
        return 0.0, 1.0  # a few brighter pixels are highlights
    if low >= 0:
        for limit in _WIDE_RANGES:
            if high <= limit:
                return 0.0, limit
    return low, high if high > low else low + 1


def _on_background(rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    background = Image.new("RGB", rgb.size, (_background(rgb, alpha),) * 3)
    background.paste(rgb, mask=alpha)
    return background


def _background(rgb: Image.Image, alpha: Image.Image) -> int:
    """Return the grey level of a background on which the visible pixels can be seen."""
    visible = alpha.point([0] * _VISIBLE + [255] * (256 - _VISIBLE))
    if visible.getextrema() == (0, 0):
        visible = alpha.point([0] + [255] * 255)
    counts = rgb.convert("L").histogram(visible)
    total, dark = sum(counts), sum(counts[:_LIGHT])
    return _BLACK if total and dark < _DARK_SHARE * total else _WHITE


@lru_cache(_PROFILES)
def _profile_transform(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the conversion to sRGB. None: not needed, or the profile does not fit the image."""
    if not profile or len(profile) > _MAX_PROFILE:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _PROFILE_SPACES[mode]:
            return None
        transform = _transform(source, mode)
        if mode == "RGB" and _changes_nothing(transform):
            return None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):
        return None  # viewers ignore a damaged profile, too
    return transform


def _transform(source: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.ImageCmsTransform(
        source,
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


@lru_cache(1)
def _lab_transform() -> ImageCms.ImageCmsTransform:
    return _transform(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB")


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Return whether a conversion is that of sRGB itself, on a grid of colours."""
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    converted = np.asarray(transform.apply(Image.fromarray(grid)), np.int16)
    return bool(np.abs(converted - grid).max() <= _SAME)
