"""Comparing the preprocessing and the tokenizer of a bundle with those of the original library."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from dualpath.errors import BundleError
from dualpath.models.image_text.original import OriginalModel
from dualpath.types import IntArray, Pixels

# The mean difference of pixels, of 255, that resampling by torchvision instead of Pillow makes.
_MOST_DIFFERENCE = 1.5
_PLAIN_TEXTS = ("a photo of a dog", "two red cars in front of a house", "word " * 600)
_ODD_TEXTS = (
    "",
    "It’s a “dog”, isn't it?  50% off!",
    "ein Mädchen, 犬の写真, صورة كلب, 🐶",
    "A_b-c: D;e/f (g) &amp; <h>",
)


def check_pixels(original: OriginalModel, preprocess: Callable[[Image.Image], Pixels]) -> None:
    """Compare the pixels of drawn images with those of the original library.

    Args:
        preprocess: an image to (views, 3, h, w) uint8.

    Raises:
        BundleError: they differ.
    """
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (original.mean, original.std))
    for size in ((300, 200), (90, 400), (20, 20)):
        image = _draw(*size)
        expected = (original.preprocess([image])[0].float() * std + mean) * 255
        pixels = torch.from_numpy(preprocess(image)[0].astype(np.float32))
        if expected.shape != pixels.shape:
            raise BundleError(
                f"{original.spec.source}: its preprocessing gives {tuple(expected.shape)} pixels, "
                f"not {tuple(pixels.shape)}; it is not supported"
            )
        difference = float((expected - pixels).abs().mean())
        if difference > _MOST_DIFFERENCE:
            raise BundleError(
                f"{original.spec.source}: its preprocessing is not supported (pixels of an image "
                f"of {size[0]} x {size[1]} differ by {difference:.1f} of 255)"
            )


def check_tokens(original: OriginalModel, encode: Callable[[Sequence[str]], IntArray]) -> list[str]:
    """Compare token ids with those of the original tokenizer.

    Args:
        encode: texts to ids plus one, (texts, positions), padded with 0.

    Returns:
        The unusual texts that get other ids.

    Raises:
        BundleError: plain texts get other ids.
    """
    texts = [*_PLAIN_TEXTS, *_ODD_TEXTS]
    padding = original.spec.padding_id
    expected = [_strip(row, padding) for row in original.tokenize(texts)]
    rows = [_strip((row[row > 0] - 1).tolist(), padding) for row in encode(texts)]
    different = [text for text, a, b in zip(texts, expected, rows, strict=True) if a != b]
    plain = [text for text in different if text in _PLAIN_TEXTS]
    if plain:
        raise BundleError(
            f"{original.spec.source}: its tokenizer cannot be converted; '{plain[0][:40]}' gets "
            "other tokens"
        )
    return different


def _strip(row: list[int], padding_id: int) -> list[int]:
    """Return token ids without padding, which may be a token that ends every text."""
    ids = np.asarray(row)
    other = np.flatnonzero(ids != padding_id)
    return [] if len(other) == 0 else ids[other[0] : other[-1] + 1].tolist()


def _draw(width: int, height: int) -> Image.Image:
    """Return an image of smooth colours with an edge."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    channels = np.stack([x, y, (x + y > 1).astype(float)], axis=2)
    return Image.fromarray((255 * channels).astype(np.uint8))
