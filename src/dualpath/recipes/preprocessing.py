"""How the pixels of a pretrained image-text model are made: the part of a recipe that says so."""

from typing import Literal

from pydantic import model_validator

from dualpath.recipes.base import Positive, StrictModel

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]


class PreprocessingRecipe(StrictModel):
    """Preprocessing of a pretrained image-text model, as its own library does it.

    Attributes:
        resize: ``squash``: to a square of ``size`` pixels. ``shorter_side`` or ``longer_side``:
            this side gets ``size`` pixels, and the aspect ratio stays.
        size: pixels.
        interpolation: of the resampling, antialiased as in Pillow.
        crop: rounding of the start of the central crop of ``input_size`` pixels: ``floor``
            (transformers) or ``round`` (torchvision, open_clip). ``none``: no crop.
        fill: grey value of the border where an image is smaller than the crop.
        convert: how images become RGB. ``white``: on a white background, before the resize
            (transformers). ``drop``: without their transparency, before the resize (transformers
            before 5). ``after``: without their transparency, after the resize (open_clip).
    """

    resize: Literal["squash", "shorter_side", "longer_side"] = "squash"
    size: Positive
    interpolation: Interpolation = "bicubic"
    crop: Literal["none", "floor", "round"] = "none"
    fill: int = 0
    convert: Literal["white", "drop", "after"] = "drop"

    @model_validator(mode="after")
    def _check_square(self) -> "PreprocessingRecipe":
        if self.resize != "squash" and self.crop == "none":
            raise ValueError("images that keep their aspect ratio must be cropped to a square")
        return self
