"""Views of an image (whole or a crop, upright or mirrored) at the size of the network's input."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dualpath.data.images import MAX_PIXELS, open_image
from dualpath.data.pixels import to_rgb
from dualpath.errors import ImageError
from dualpath.types import Pixels

# Paper, section 5.1 and its code: aspect ratio, and share of the largest such rectangle.
_ASPECT = (3 / 4, 4 / 3)
_AREA = (0.64, 1.0)
_BATCHES_AHEAD = 3  # including the current one


@dataclass(frozen=True)
class View:
    """The part of an image that is used.

    Attributes:
        crop: seed of the position and size of a random crop. None: the whole image.
        flipped: mirrored left to right.
    """

    crop: int | None = None
    flipped: bool = False

    @property
    def name(self) -> str:
        """A name for caches and logs.

        >>> View(2, flipped=True).name
        'crop-2-flipped'
        """
        part = "whole" if self.crop is None else f"crop-{self.crop}"
        return f"{part}-flipped" if self.flipped else part


WHOLE = View()


def decode_size(size: int) -> int:
    """Return the pixels per side that decoding must leave for a view of ``size`` pixels.

    Twice as many: a crop covers most of the image, and resampling needs pixels to average.
    """
    return 2 * size


def fixed_views(*, flip: bool, crops: int) -> list[View]:
    """Return the whole image and ``crops`` crops, each also mirrored if ``flip``.

    >>> [view.name for view in fixed_views(flip=True, crops=1)]
    ['whole', 'whole-flipped', 'crop-0', 'crop-0-flipped']
    """
    parts: list[int | None] = [None, *range(crops)]
    return [View(part, flipped) for part in parts for flipped in ([False, True][: 1 + flip])]


def preprocess(image: Image.Image, view: View, size: int) -> Pixels:
    """Resize a view to RGB pixels, (3, size, size) uint8.

    The whole image is squashed to the square, so nothing is cut off, by antialiased bicubic
    interpolation as in the paper's code.

    >>> preprocess(Image.new("RGB", (40, 20)), WHOLE, 8).shape
    (3, 8, 8)
    """
    box = None if view.crop is None else random_crop(image.width, image.height, view.crop)
    square = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    pixels = _to_pixels(square)
    return np.ascontiguousarray(pixels[:, :, ::-1]) if view.flipped else pixels


def random_crop(width: int, height: int, seed: int) -> tuple[float, float, float, float]:
    """Draw a crop of an image, (left, top, right, bottom) in pixels, by ``seed``.

    The aspect ratio is log-uniform in [3/4, 4/3]. The largest such rectangle is shrunk to a share
    of its area that is uniform in [0.64, 1], and placed uniformly (authors' code).
    """
    generator = np.random.default_rng(seed)
    ratio = float(np.exp(generator.uniform(*np.log(_ASPECT))))
    largest_width = min(width, height * ratio)
    shrink = float(np.sqrt(generator.uniform(*_AREA)))
    crop_width, crop_height = largest_width * shrink, largest_width / ratio * shrink
    left = generator.uniform(0, width - crop_width)
    top = generator.uniform(0, height - crop_height)
    return left, top, left + crop_width, top + crop_height


@dataclass(frozen=True)
class ImageTransform:
    """Turns images into the pixels of the given views.

    Attributes:
        views: of each image.
        size: pixels per side.
        keep_aspect: the shorter side gets ``size`` pixels; only the whole image can be used.
    """

    views: Sequence[View]
    size: int
    keep_aspect: bool = False

    def __call__(self, image: Path | Image.Image) -> Pixels:
        """Return the views of an image, (views, 3, height, width) uint8 RGB.

        Raises:
            ImageError: a file cannot be decoded.
        """
        if isinstance(image, Path):
            image = open_image(image, side=decode_size(self.size))
        image = to_rgb(image)
        upright: dict[int | None, Pixels] = {}
        for view in self.views:  # a crop is resampled once for itself and its mirror image
            if view.crop not in upright:
                upright[view.crop] = self._resize(image, View(view.crop))
        return np.stack(
            [upright[v.crop][:, :, ::-1] if v.flipped else upright[v.crop] for v in self.views]
        )

    def _resize(self, image: Image.Image, view: View) -> Pixels:
        if not self.keep_aspect:
            return preprocess(image, view, self.size)
        size = scaled_size(image, self.size)
        return _to_pixels(image.resize(size, Image.Resampling.BICUBIC))

    def batches(
        self, images: Sequence[Path | Image.Image], batch_size: int, workers: int
    ) -> Iterator[Pixels]:
        """Yield batches, (batch, views, 3, height, width) uint8, prepared by ``workers`` threads.

        Threads are enough, since Pillow releases the interpreter lock while it decodes and resizes.
        A forked process would copy every page of a process full of tensors that either writes.
        """
        starts = range(0, len(images), batch_size)
        if workers == 0:
            for start in starts:
                yield np.stack([self(image) for image in images[start : start + batch_size]])
            return
        pool = ThreadPoolExecutor(workers)
        try:
            pending: deque[Future[Pixels]] = deque()
            for start in starts:
                submitted = start + len(pending)
                pending.extend(
                    pool.submit(self, image)
                    for image in images[submitted : start + _BATCHES_AHEAD * batch_size]
                )
                count = min(batch_size, len(pending))
                yield np.stack([pending.popleft().result() for _ in range(count)])
        finally:
            pool.shutdown(cancel_futures=True)


def scaled_size(image: Image.Image, side: int) -> tuple[int, int]:
    """Return width and height of an image whose shorter side has ``side`` pixels.

    >>> scaled_size(Image.new("RGB", (40, 20)), 10)
    (20, 10)

    Raises:
        ImageError: the image is so narrow that the result would have too many pixels.
    """
    factor = side / min(image.size)
    width, height = (round(factor * length) for length in image.size)
    if width * height > max(MAX_PIXELS, image.width * image.height):
        raise ImageError(
            f"an image of {image.width:,} x {image.height:,} pixels is too narrow for a shorter "
            f"side of {side} pixels"
        )
    return width, height


def _to_pixels(image: Image.Image) -> Pixels:
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
