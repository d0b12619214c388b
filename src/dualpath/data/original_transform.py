"""The pixels of a pretrained image-text model, as its own library makes them, with Pillow alone.

Images are decoded at full size. A JPEG that is decoded at a fraction of its size, as for networks
that were trained here, gives other pixels.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dualpath.data.images import open_image
from dualpath.data.transforms import ImageTransform
from dualpath.recipes.preprocessing import PreprocessingRecipe
from dualpath.types import Pixels

_MAX_RESIZED = 16_777_216  # pixels of a resized image that is then cropped
# Modes that are resized as they are; others are converted first.
_RESIZABLE = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


@dataclass(frozen=True)
class OriginalTransform(ImageTransform):
    """Turns images into pixels as the library of a pretrained model does.

    Attributes:
        preprocessing: resize and crop.
    """

    preprocessing: PreprocessingRecipe = field(kw_only=True)

    def __call__(self, image: Path | Image.Image) -> Pixels:
        """Return the views of an image, (views, 3, size, size) uint8 RGB.

        Raises:
            ImageError: a file cannot be decoded.
        """
        if isinstance(image, Path):
            image = open_image(image, convert=False)
        upright = original_pixels(image, self.preprocessing, self.size)
        return np.stack([upright[:, :, ::-1] if view.flipped else upright for view in self.views])


def original_pixels(image: Image.Image, recipe: PreprocessingRecipe, size: int) -> Pixels:
    """Resize and crop an image to RGB pixels, (3, size, size) uint8.

    >>> recipe = PreprocessingRecipe(resize="shorter_side", size=8, crop="floor")
    >>> original_pixels(Image.new("L", (40, 20)), recipe, 8).shape
    (3, 8, 8)
    """
    image = _convert(image, recipe)
    resample = Image.Resampling[recipe.interpolation.upper()]
    width, height = _resized(image.width, image.height, recipe)
    if recipe.crop == "none":
        return _to_pixels(image.resize((width, height), resample))
    left, top = (_start(length, size, recipe) for length in (width, height))
    if width * height > _MAX_RESIZED:
        # Only the part that the crop shows is resampled, or a strip of 1 x 100,000 pixels would
        # become gigabytes.
        shown = (max(left, 0), max(top, 0), min(left + size, width), min(top + size, height))
        across, down = image.width / width, image.height / height
        box = (shown[0] * across, shown[1] * down, shown[2] * across, shown[3] * down)
        image = image.resize((shown[2] - shown[0], shown[3] - shown[1]), resample, box=box)
        width, height = image.size
        left, top = min(left, 0), min(top, 0)
    else:
        image = image.resize((width, height), resample)
    if width < size or height < size:
        # A border: half of it, rounded down, on the left and at the top.
        missing = (max(size - width, 0), max(size - height, 0))
        border = (
            missing[0] // 2,
            missing[1] // 2,
            missing[0] - missing[0] // 2,
            missing[1] - missing[1] // 2,
        )
        image = _add_border(image, border, recipe.fill)
        left, top = max(left, 0), max(top, 0)
    return _to_pixels(image.crop((left, top, left + size, top + size)))


def _add_border(image: Image.Image, border: tuple[int, int, int, int], fill: int) -> Image.Image:
    if image.mode != "P":
        return ImageOps.expand(image.convert("RGB"), border, (fill,) * 3)
    palette = image.getpalette()
    expanded = ImageOps.expand(image, border, fill)  # torchvision takes it as the index of a colour
    if palette is not None:
        expanded.putpalette(palette)
    return expanded


def _convert(image: Image.Image, recipe: PreprocessingRecipe) -> Image.Image:
    if recipe.convert == "after" and image.mode in _RESIZABLE:
        return image
    if recipe.convert == "white" and image.has_transparency_data:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _resized(width: int, height: int, recipe: PreprocessingRecipe) -> tuple[int, int]:
    """Return width and height after the resize."""
    size = recipe.size
    if recipe.resize == "squash":
        return size, size
    if recipe.resize == "shorter_side":
        longer = int(size * max(width, height) / min(width, height))
        return (size, longer) if width <= height else (longer, size)
    ratio = max(width, height) / size
    return max(round(width / ratio), 1), max(round(height / ratio), 1)


def _start(length: int, size: int, recipe: PreprocessingRecipe) -> int:
    """Return where the central crop begins; negative where a border is added."""
    if length < size:
        return -((size - length) // 2)
    return (length - size) // 2 if recipe.crop == "floor" else round((length - size) / 2)


def _to_pixels(image: Image.Image) -> Pixels:
    return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
