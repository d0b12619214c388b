"""Karpathy's JSON of Flickr8k, Flickr30k and MSCOCO, the splits that the literature compares on."""

from pathlib import PurePosixPath

from dualpath.sources.raw import RawFolder
from dualpath.sources.rows import Row, SourceError

_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


def read_karpathy(raw: RawFolder, name: str) -> list[Row]:
    """Read such a file; ``restval``, the pictures of MSCOCO left over, belongs to training.

    Raises:
        SourceError: the file is missing or has other keys.
    """
    rows = []
    try:
        for image in raw.json(name)["images"]:
            picture = str(PurePosixPath(image.get("filepath", "")) / image["filename"])
            captions = tuple(sentence["raw"].strip() for sentence in image["sentences"])
            rows.append(Row(picture, raw.picture(picture), captions, _SPLITS[image["split"]]))
    except (KeyError, TypeError, AttributeError) as error:
        raise SourceError(
            f"{raw.folder}: {name} is not Karpathy's format (at picture {len(rows) + 1}: {error!r})"
        ) from error
    return rows
