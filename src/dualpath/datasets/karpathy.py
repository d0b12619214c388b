"""Karpathy's JSON of Flickr8k, Flickr30k and MSCOCO, the splits that the literature compares on."""

from pathlib import PurePosixPath

from dualpath.datasets.base import DatasetRow
from dualpath.datasets.raw_folder import RawFolder
from dualpath.errors import DatasetError

_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


def read_karpathy(raw: RawFolder, name: str) -> list[DatasetRow]:
    """Read such a file; ``restval``, the images of MSCOCO left over, belongs to training.

    Raises:
        SourceError: the file is missing or has other keys.
    """
    rows = []
    try:
        for image in raw.json(name)["images"]:
            image = str(PurePosixPath(image.get("filepath", "")) / image["filename"])
            captions = tuple(sentence["raw"].strip() for sentence in image["sentences"])
            rows.append(DatasetRow(image, raw.image(image), captions, _SPLITS[image["split"]]))
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{raw.folder}: {name} is not Karpathy's format (at image {len(rows) + 1}: {error!r})"
        ) from error
    return rows
