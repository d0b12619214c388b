"""Flickr8k and Flickr30k, from their official files or from Karpathy's JSON.

Official: ``Flickr8k.token.txt`` with the three lists ``Flickr_8k.*Images.txt``;
``results_20130124.token``. A line of captions is ``image.jpg#number``, a tab, the caption.
Flickr30k has no official lists: either Karpathy's split (29,000 / 1,014 / 1,000), which the
literature compares on, or that of the paper's authors, who took Flickr8k's lists of validation
and test images and left the rest to training (29,783 / 1,000 / 1,000).
"""

from typing import Literal

from dualpath.datasets.base import Counts, DatasetRow
from dualpath.datasets.karpathy import read_karpathy
from dualpath.datasets.raw_folder import RawFolder
from dualpath.errors import DatasetError

SPLITS = ("karpathy", "flickr8k-lists")

PUBLISHED: dict[tuple[str, str], Counts] = {
    ("flickr8k", "karpathy"): {"train": 6000, "val": 1000, "test": 1000},
    ("flickr8k", "flickr8k-lists"): {"train": 6000, "val": 1000, "test": 1000},
    ("flickr30k", "karpathy"): {"train": 29000, "val": 1014, "test": 1000},
    ("flickr30k", "flickr8k-lists"): {"train": 29783, "val": 1000, "test": 1000},
}
_TOKENS = {"flickr8k": "Flickr8k.token.txt", "flickr30k": "results_20130124.token"}
_LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}


def read_flickr(
    raw: RawFolder, name: Literal["flickr8k", "flickr30k"], split: str
) -> list[DatasetRow]:
    """Read one of the two sets.

    Raises:
        SourceError: a file is missing or not as it should be.
    """
    if split == "karpathy":
        return read_karpathy(raw, f"dataset_{name}.json")
    captions = read_tokens(raw, _TOKENS[name])
    named = {
        image: part
        for part in (_LISTS if name == "flickr8k" else ("val", "test"))
        for image in raw.lines(_LISTS[part])
    }
    # Flickr8k's token file names images that are in none of its lists.
    rest = None if name == "flickr8k" else "train"
    return [
        DatasetRow(image, raw.image(image), tuple(told), part)
        for image, told in captions.items()
        if (part := named.get(image, rest)) is not None
    ]


def read_tokens(raw: RawFolder, name: str) -> dict[str, list[str]]:
    """Read a token file: the captions of each image, in order.

    Raises:
        SourceError: the file is missing, or a line is not as it should be.
    """
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(raw.lines(name), start=1):
        key, tab, caption = line.partition("\t")
        image, mark, _ = key.partition("#")
        if not (tab and mark and image):
            raise DatasetError(f"{name}:{number}: a line is image.jpg#number, a tab, a caption")
        # A handful of names of Flickr8k end in ".jpg.1".
        captions.setdefault(image.removesuffix(".1"), []).append(caption.strip())
    return captions
