"""Views of a picture: the whole of it or a part, as it is or mirrored, at the network's size."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dualpath.data.pictures import open_picture

# Paper, section 5.1 and its code: aspect ratio, and share of the largest such rectangle.
_ASPECT = (3 / 4, 4 / 3)
_AREA = (0.64, 1.0)
_AHEAD = 3  # batches, with the one that is asked for


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


@dataclass(frozen=True)
class Renderer:
    """Pictures in given views as the network sees them, each (views, 3, size, size) uint8.

    With ``keep_aspect`` the shorter side has ``size`` pixels, and only the whole can be seen.
    """

    views: Sequence[View]
    size: int
    keep_aspect: bool = False

    def __call__(self, picture: Path | Image.Image) -> torch.Tensor:
        """Render a picture or, decoded first, a file; ``PictureError`` names a broken one."""
        if isinstance(picture, Path):
            picture = open_picture(picture, side=side_to_decode(self.size))
        picture = picture.convert("RGB")
        upright: dict[int | None, torch.Tensor] = {}
        for view in self.views:  # a part is resampled once for both of its sides
            if view.crop not in upright:
                upright[view.crop] = self._render(picture, View(view.crop))
        return torch.stack(
            [upright[v.crop].flip(2) if v.flipped else upright[v.crop] for v in self.views]
        )

    def _render(self, picture: Image.Image, view: View) -> torch.Tensor:
        if not self.keep_aspect:
            return render(picture, view, self.size)
        factor = self.size / min(picture.size)
        width, height = (round(factor * length) for length in picture.size)
        return _pixels(picture.resize((width, height), Image.Resampling.BICUBIC), flipped=False)

    def batches(
        self, pictures: Sequence[Path | Image.Image], batch_size: int, workers: int
    ) -> Iterator[torch.Tensor]:
        """Yield batches, (batch, views, 3, h, w), rendered ahead by ``workers`` threads.

        Threads, since decoding and resampling leave the interpreter to others, and a process that
        is forked from one full of tensors copies whatever either of them writes.
        """
        starts = range(0, len(pictures), batch_size)
        if workers == 0:
            for start in starts:
                yield torch.stack([self(p) for p in pictures[start : start + batch_size]])
            return
        pool = ThreadPoolExecutor(workers)
        try:
            rendered: deque[Future[torch.Tensor]] = deque()
            for start in starts:
                asked = start + len(rendered)
                rendered.extend(
                    pool.submit(self, p) for p in pictures[asked : start + _AHEAD * batch_size]
                )
                batch = min(batch_size, len(rendered))
                yield torch.stack([rendered.popleft().result() for _ in range(batch)])
        finally:
            pool.shutdown(cancel_futures=True)


def _pixels(picture: Image.Image, *, flipped: bool) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    return pixels.flip(2) if flipped else pixels.contiguous()
