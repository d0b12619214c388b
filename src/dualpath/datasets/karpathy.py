"""Karpathy's JSON files of Flickr8k, Flickr30k and MSCOCO, with the splits of the literature."""

from pathlib import PurePosixPath

from dualpath.datasets.base import DatasetRow
from dualpath.datasets.download import RemoteFile
from dualpath.datasets.raw_folder import RawFolder
from dualpath.errors import DatasetError

KARPATHY_ZIP = RemoteFile(
    "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
    "captions of Flickr8k, Flickr30k (research and education only) and MSCOCO (CC BY 4.0)",
)
# MSCOCO's "restval" is the rest of the official validation images, which the literature trains on.
_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


def read_karpathy(raw: RawFolder, file: str) -> list[DatasetRow]:
    """Read a file such as ``dataset_coco.json``.

    Raises:
        DatasetError: the file is missing or has other keys.
    """
    rows: list[DatasetRow] = []
    try:
        for image in raw.read_json(file)["images"]:
            name = str(PurePosixPath(image.get("filepath", "")) / image["filename"])
            captions = tuple(sentence["raw"].strip() for sentence in image["sentences"])
            split = _SPLITS[image["split"]]
            rows.append(DatasetRow(name, raw.find_image(name), captions, split))
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{raw.folder}: {file} is not in Karpathy's format (image {len(rows) + 1}: {error!r})"
        ) from error
    return rows
