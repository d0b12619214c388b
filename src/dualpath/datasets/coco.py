"""MSCOCO captions: Karpathy's split, or the official one of 2014 or 2017.

The paper's split was drawn at random in MATLAB and cannot be had again; Karpathy's has the same
sizes. Karpathy's JSON holds the captions, so the official files are not needed beside it.
"""

from dualpath.datasets.base import Counts, DatasetRow
from dualpath.datasets.karpathy import read_karpathy
from dualpath.datasets.raw_folder import RawFolder
from dualpath.errors import DatasetError

SPLITS = ("karpathy", "2014", "2017")

PUBLISHED: dict[str, Counts] = {
    "karpathy": {"train": 113287, "val": 5000, "test": 5000},
    "2014": {"train": 82783, "val": 40504},
    "2017": {"train": 118287, "val": 5000},
}


def read_mscoco(raw: RawFolder, split: str) -> list[DatasetRow]:
    """Read ``dataset_coco.json``, or ``captions_train*.json`` and ``captions_val*.json``.

    Raises:
        SourceError: a file is missing or has other keys.
    """
    if split == "karpathy":
        return read_karpathy(raw, "dataset_coco.json")
    return [row for part in ("train", "val") for row in _read_part(raw, part, split)]


def _read_part(raw: RawFolder, part: str, year: str) -> list[DatasetRow]:
    name = f"captions_{part}{year}.json"
    captions: dict[int, list[str]] = {}
    try:
        content = raw.json(name)
        for annotation in content["annotations"]:
            captions.setdefault(annotation["image_id"], []).append(annotation["caption"].strip())
        images = {image["id"]: f"{part}{year}/{image['file_name']}" for image in content["images"]}
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{raw.folder}: {name} is not COCO's format ({error!r})") from error
    return [
        DatasetRow(image, raw.image(image), tuple(captions.get(number, ())), part)
        for number, image in images.items()
    ]
