"""MSCOCO captions, in Karpathy's split or the official split of 2014 or 2017.

The split of the paper was drawn at random and is not published. Karpathy's has the same sizes. His
JSON contains the captions, so the official files are not needed for it.
"""

from dualpath.datasets.base import DatasetRow, DatasetSpec
from dualpath.datasets.download import RemoteFile
from dualpath.datasets.karpathy import KARPATHY_ZIP, read_karpathy
from dualpath.datasets.raw_folder import RawFolder
from dualpath.errors import DatasetError

_LICENCE = "COCO annotations, CC BY 4.0; the images have their own licences"
_ANNOTATIONS_URL = "http://images.cocodataset.org/annotations/annotations_trainval{}.zip"


def read_mscoco(raw: RawFolder, split: str) -> list[DatasetRow]:
    """Read ``dataset_coco.json``, or ``captions_train*.json`` and ``captions_val*.json``.

    Raises:
        DatasetError: a file is missing or has other keys.
    """
    if split == "karpathy":
        return read_karpathy(raw, "dataset_coco.json")
    return _read_official(raw, "train", split) + _read_official(raw, "val", split)


def _read_official(raw: RawFolder, split: str, year: str) -> list[DatasetRow]:
    file = f"captions_{split}{year}.json"
    captions: dict[int, list[str]] = {}
    try:
        content = raw.read_json(file)
        for annotation in content["annotations"]:
            captions.setdefault(annotation["image_id"], []).append(annotation["caption"].strip())
        images = {image["id"]: f"{split}{year}/{image['file_name']}" for image in content["images"]}
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{raw.folder}: {file} is not in COCO's format ({error!r})") from error
    return [
        DatasetRow(name, raw.find_image(name), tuple(captions.get(image_id, ())), split)
        for image_id, name in images.items()
    ]


MSCOCO = DatasetSpec(
    "MSCOCO captions, from Karpathy's JSON or the official files.",
    read_mscoco,
    splits=("karpathy", "2014", "2017"),
    published={
        "karpathy": {"train": 113287, "val": 5000, "test": 5000},
        "2014": {"train": 82783, "val": 40504},
        "2017": {"train": 118287, "val": 5000},
    },
    downloads={
        "karpathy": KARPATHY_ZIP,
        "2014": RemoteFile(_ANNOTATIONS_URL.format(2014), _LICENCE),
        "2017": RemoteFile(
            _ANNOTATIONS_URL.format(2017), _LICENCE, md5="f4bbac642086de4f52a3fdda2de5fa2c"
        ),
    },
)
