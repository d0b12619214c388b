"""Views of a picture: the whole of it or a part, as it is or mirrored, at the network's size."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from dualpath.data.pictures import open_picture

# Paper, section 5.1 and its code: aspect ratio, and share of the largest such rectangle.
_ASPECT = (3 / 4, 4 / 3)
_AREA = (0.64, 1.0)


@dataclass(frozen=True)
class View:
    """What of a picture is seen. ``crop`` seeds the place and size of a crop; none: the whole."""

    crop: int | None = None
    flipped: bool = False

    @property
    def name(self) -> str:
        """A name for caches and logs, such as ``crop-2-flipped``."""
        part = "whole" if self.crop is None else f"crop-{self.crop}"
        return f"{part}-flipped" if self.flipped else part


WHOLE = View()


def side_to_decode(size: int) -> int:
    """Return how many pixels a side of a picture needs so that a view of ``size`` keeps its detail.

    Twice as many: a crop sees most of the picture, and the resampling has something to average.
    """
    return 2 * size


def fixed_views(*, flip: bool, crops: int) -> list[View]:
    """Return the views a frozen backbone's features are kept for: whole, crops, mirrored."""
    parts: list[int | None] = [None, *range(crops)]
    return [View(part, flipped) for part in parts for flipped in ([False, True][: 1 + flip])]


def render(picture: Image.Image, view: View, size: int) -> torch.Tensor:
    """Render a view as uint8 RGB, (3, size, size).

    The whole picture is squashed to the square (nothing of it is cut off), by antialiased
    bicubic interpolation as in the paper's code.
    """
    box = None if view.crop is None else random_crop(picture.width, picture.height, view.crop)
    square = picture.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return _pixels(square, flipped=view.flipped)


def random_crop(width: int, height: int, seed: int) -> tuple[float, float, float, float]:
    """Draw a crop of a picture, (left, top, right, bottom) in pixels, by ``seed``.

    The aspect ratio is log-uniform in [3/4, 4/3]; the largest such rectangle is shrunk to a
    share of its area uniform in [0.64, 1] and put at a uniform place (authors' code).
    """
    generator = np.random.default_rng(seed)
    ratio = float(np.exp(generator.uniform(*np.log(_ASPECT))))
    largest_width = min(width, height * ratio)
    shrink = float(np.sqrt(generator.uniform(*_AREA)))
    crop_width, crop_height = largest_width * shrink, largest_width / ratio * shrink
    left = generator.uniform(0, width - crop_width)
    top = generator.uniform(0, height - crop_height)
    return left, top, left + crop_width, top + crop_height


def render_keeping_aspect(picture: Image.Image, view: View, shorter_side: int) -> torch.Tensor:
    """Render the whole picture as uint8 RGB, (3, h, w), its shorter side of so many pixels."""
    factor = shorter_side / min(picture.size)
    width, height = (round(factor * length) for length in picture.size)
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return _pixels(resized, flipped=view.flipped)


def render_views(
    picture: Image.Image, views: Sequence[View], size: int, *, keep_aspect: bool = False
) -> torch.Tensor:
    """Render views of a picture, (views, 3, h, w) uint8; ``keep_aspect``: only whole ones."""
    render_one = render_keeping_aspect if keep_aspect else render
    return torch.stack([render_one(picture.convert("RGB"), view, size) for view in views])


def _pixels(picture: Image.Image, *, flipped: bool) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    return pixels.flip(2) if flipped else pixels.contiguous()


class RenderedPictures(Dataset[torch.Tensor]):
    """Pictures in given views, decoded when asked for: each (views, 3, size, size) uint8.

    With ``keep_aspect`` the shorter side has ``size`` pixels, and only the whole can be seen.
    """

    def __init__(
        self,
        pictures: Sequence[Path | Image.Image],
        views: Sequence[View],
        size: int,
        *,
        keep_aspect: bool = False,
    ) -> None:
        self._pictures = pictures
        self._views = views
        self._size = size
        self._keep_aspect = keep_aspect

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> torch.Tensor:
        source = self._pictures[index]
        picture = source if isinstance(source, Image.Image) else self._open(source)
        return render_views(picture, self._views, self._size, keep_aspect=self._keep_aspect)

    def _open(self, path: Path) -> Image.Image:
        return open_picture(path, side=side_to_decode(self._size))
