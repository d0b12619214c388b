"""Flickr8k and Flickr30k, from their official files or from Karpathy's JSON.

The official files are ``Flickr8k.token.txt`` with the lists ``Flickr_8k.*Images.txt``, and
``results_20130124.token``. A line of a token file is ``image.jpg#number``, a tab and a caption.

Flickr30k has no official lists. Its splits are:

* ``karpathy``: 29,000 / 1,014 / 1,000 images, which the literature compares.
* ``flickr8k-lists``: 29,783 / 1,000 / 1,000 images, which the authors of the paper used. Validation
  and test images are those of Flickr8k's lists; all other images are training images.
"""

from collections.abc import Mapping, Sequence

from dualpath.datasets.base import DatasetRow, DatasetSpec
from dualpath.datasets.karpathy import KARPATHY_ZIP, read_karpathy
from dualpath.datasets.raw_folder import RawFolder
from dualpath.errors import DatasetError

_KARPATHY, _LISTS = "karpathy", "flickr8k-lists"
_LIST_FILES = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}


def read_flickr8k(raw: RawFolder, split: str) -> list[DatasetRow]:
    """Read Flickr8k; images that are in none of its lists are left out.

    Raises:
        DatasetError: a file is missing or has another format.
    """
    if split == _KARPATHY:
        return read_karpathy(raw, "dataset_flickr8k.json")
    captions = read_token_file(raw, "Flickr8k.token.txt")
    splits = _read_lists(raw, ("train", "val", "test"))
    return _rows(raw, {name: captions[name] for name in captions if name in splits}, splits)


def read_flickr30k(raw: RawFolder, split: str) -> list[DatasetRow]:
    """Read Flickr30k.

    Raises:
        DatasetError: a file is missing or has another format.
    """
    if split == _KARPATHY:
        return read_karpathy(raw, "dataset_flickr30k.json")
    captions = read_token_file(raw, "results_20130124.token")
    train = dict.fromkeys(captions, "train")
    return _rows(raw, captions, train | _read_lists(raw, ("val", "test")))


def read_token_file(raw: RawFolder, file: str) -> dict[str, list[str]]:
    """Return the captions of each image of a token file, in order.

    Raises:
        DatasetError: the file is missing, or a line has another format.
    """
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(raw.read_lines(file), start=1):
        key, tab, caption = line.partition("\t")
        image, mark, _ = key.partition("#")
        if not (tab and mark and image):
            raise DatasetError(
                f"{file}:{number}: a line must be image.jpg#number, a tab and a caption"
            )
        # A few names of Flickr8k end in ".jpg.1".
        captions.setdefault(image.removesuffix(".1"), []).append(caption.strip())
    return captions


def _read_lists(raw: RawFolder, splits: Sequence[str]) -> dict[str, str]:
    """Return the split of each image of Flickr8k's lists."""
    return {image: split for split in splits for image in raw.read_lines(_LIST_FILES[split])}


def _rows(
    raw: RawFolder, captions: Mapping[str, Sequence[str]], splits: Mapping[str, str]
) -> list[DatasetRow]:
    return [
        DatasetRow(image, raw.find_image(image), tuple(sentences), splits[image])
        for image, sentences in captions.items()
    ]


FLICKR8K = DatasetSpec(
    "Flickr8k, from Karpathy's JSON, or the official token file and lists.",
    read_flickr8k,
    splits=(_KARPATHY, _LISTS),
    published={
        _KARPATHY: {"train": 6000, "val": 1000, "test": 1000},
        _LISTS: {"train": 6000, "val": 1000, "test": 1000},
    },
    downloads={_KARPATHY: KARPATHY_ZIP},
)
FLICKR30K = DatasetSpec(
    "Flickr30k, from Karpathy's JSON, or the official token file and Flickr8k's lists.",
    read_flickr30k,
    splits=(_KARPATHY, _LISTS),
    published={
        _KARPATHY: {"train": 29000, "val": 1014, "test": 1000},
        _LISTS: {"train": 29783, "val": 1000, "test": 1000},
    },
    downloads={_KARPATHY: KARPATHY_ZIP},
)
