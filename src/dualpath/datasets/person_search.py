"""Person search by text: CUHK-PEDES, ICFG-PEDES and RSTPReid, which have the same format.

The annotations are a list of ``{"id", "split", "captions", "file_path" or "img_path"}``. An
identity becomes an instance.
"""

from functools import partial

from dualpath.datasets.base import DEFAULT_SPLIT, DatasetRow, DatasetSpec
from dualpath.datasets.raw_folder import RawFolder
from dualpath.errors import DatasetError


def read_person_search(raw: RawFolder, _split: str, *, files: tuple[str, ...]) -> list[DatasetRow]:
    """Read the annotations of one of the three data sets.

    Args:
        files: names that the annotation file may have.

    Raises:
        DatasetError: the file is missing, or an entry has another format.
    """
    file = next((file for file in files if raw.has(file)), files[0])
    rows: list[DatasetRow] = []
    try:
        for entry in raw.read_json(file):
            image = entry.get("file_path") or entry["img_path"]
            rows.append(
                DatasetRow(
                    image,
                    raw.find_image(image),
                    tuple(caption.strip() for caption in entry["captions"]),
                    entry["split"],
                    instance=f"person-{int(entry['id'])}",
                )
            )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f"{raw.folder}: {file}, entry {len(rows) + 1}: {error!r}") from error
    return rows


CUHK_PEDES = DatasetSpec(
    "CUHK-PEDES, from reid_raw.json. Copies are squashed to a square, as in the paper.",
    partial(read_person_search, files=("reid_raw.json", "caption_all.json")),
    published={DEFAULT_SPLIT: {"train": 34054, "val": 3078, "test": 3074}},
    square=True,
)
ICFG_PEDES = DatasetSpec(
    "ICFG-PEDES, from ICFG-PEDES.json. Copies are squashed to a square.",
    partial(read_person_search, files=("ICFG-PEDES.json", "ICFG_PEDES.json")),
    published={DEFAULT_SPLIT: {"train": 34674, "test": 19848}},
    square=True,
)
RSTP_REID = DatasetSpec(
    "RSTPReid, from data_captions.json. Copies are squashed to a square.",
    partial(read_person_search, files=("data_captions.json",)),
    published={DEFAULT_SPLIT: {"train": 18505, "val": 1000, "test": 1000}},
    square=True,
)
