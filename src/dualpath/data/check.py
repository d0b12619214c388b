"""Checking a whole folder of captioned images before it is used for training."""

import itertools
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dualpath.data.cache import default_cache_folder
from dualpath.data.captions import cut_captions_message
from dualpath.data.manifest import read_manifest
from dualpath.data.record import ImageRecord
from dualpath.data.scan import scan_images
from dualpath.data.table import ImageTable
from dualpath.data.tokenizer import Tokenizer
from dualpath.data.vector_store import Hashes
from dualpath.recipes.encoders import TextEncoderRecipe
from dualpath.types import Progress, expect, no_progress
from dualpath.utils.text import first_n_and_more

_CHUNK = 10_000  # captions counted at a time
_SHOWN_GROUPS = 10
_SHOWN_IMAGES = 3


@dataclass(frozen=True)
class CheckReport:
    """The result of a check, as lines for people.

    Attributes:
        counts: of images, captions and instances.
        warnings: what may be unintended, such as the same image in two splits.
        errors: images that cannot be decoded, at which training would stop.
    """

    counts: list[str]
    warnings: list[str]
    errors: list[str]


def check_folder(
    folder: Path,
    cache: Path | None = None,
    progress: Progress = no_progress,
    *,
    max_words: int | None = None,
) -> CheckReport:
    """Check the manifest of a folder and decode every image.

    Args:
        cache: folder for the cached results (default: the cache folder of the user).
        progress: called with the number of images checked since the last call.
        max_words: longer captions are counted (default: that of the default text encoder).

    Raises:
        ManifestError: the manifest is invalid; the message lists the rows.
    """
    cache = cache or default_cache_folder()
    manifest = read_manifest(folder, cache=cache)
    images = manifest.images
    expect(progress, len(images))
    scan = scan_images(images.paths, cache, progress)
    splits = ", ".join(f"{name} {count:,}" for name, count in manifest.splits.items())
    counts = [
        f"{len(images):,} images ({splits})",
        f"{images.caption_counts.sum():,} captions",
        f"{images.instance_ids.max() + 1:,} instances",
    ]
    warnings = []
    if images.empty_captions:
        warnings.append(f"{images.empty_captions:,} empty captions are ignored")
    uncaptioned = list(images.filter(images.caption_counts == 0).column("file_name"))
    if uncaptioned:
        listed = first_n_and_more(uncaptioned, _SHOWN_IMAGES)
        warnings.append(f"{len(uncaptioned):,} images have no caption: {listed}")
    limit = max_words or TextEncoderRecipe().max_words
    cut = _longer_captions(images, limit)
    if cut:
        warnings.append(cut_captions_message(cut, limit))
    warnings += _duplicates(images, scan.hashes)
    return CheckReport(counts, warnings, list(scan.broken.values()))


def _longer_captions(images: ImageTable, max_words: int) -> int:
    words = Tokenizer([], "modern", max_words)
    captions, cut = images.captions, 0
    while chunk := list(itertools.islice(captions, _CHUNK)):
        cut += int(words.encode_and_mark(chunk)[1].sum())
    return cut


def _duplicates(images: ImageTable, hashes: Hashes) -> list[str]:
    """Return warnings about files of equal content in different splits and within one split."""
    _, number, count = np.unique(hashes, return_inverse=True, return_counts=True)
    equal: dict[int, list[ImageRecord]] = defaultdict(list)
    for index in np.flatnonzero((count[number] > 1) & (hashes != b"")):
        equal[int(number[index])].append(images[int(index)])
    repeated = list(equal.values())
    across = [group for group in repeated if len({image.split for image in group}) > 1]
    lines = [
        "the same image in two splits: "
        + ", ".join(f"{image.file_name} ({image.split})" for image in group)
        for group in across[:_SHOWN_GROUPS]
    ]
    if len(across) > _SHOWN_GROUPS:
        lines.append(f"... and {len(across) - _SHOWN_GROUPS:,} more such groups")
    if len(repeated) > len(across):
        count_within = len(repeated) - len(across)
        lines.append(f"{count_within:,} images occur more than once in one split")
    return lines
