"""Language person retrieval: CUHK-PEDES, ICFG-PEDES and RSTPReid, whose annotations are alike.

A list of ``{"id", "split", "captions", "file_path" or "img_path"}``; identities become instances.
"""

from typing import Literal

from dualpath.datasets.base import Counts, DatasetRow
from dualpath.datasets.raw_folder import RawFolder
from dualpath.errors import DatasetError

DatasetName = Literal["cuhk_pedes", "icfg_pedes", "rstp_reid"]

PUBLISHED: dict[DatasetName, Counts] = {
    "cuhk_pedes": {"train": 34054, "val": 3078, "test": 3074},
    "icfg_pedes": {"train": 34674, "test": 19848},
    "rstp_reid": {"train": 18505, "val": 1000, "test": 1000},
}
_FILES: dict[DatasetName, tuple[str, ...]] = {
    "cuhk_pedes": ("reid_raw.json", "caption_all.json"),
    "icfg_pedes": ("ICFG-PEDES.json", "ICFG_PEDES.json"),
    "rstp_reid": ("data_captions.json",),
}


def read_person(raw: RawFolder, name: DatasetName) -> list[DatasetRow]:
    """Read the annotations of one of the three sets.

    Raises:
        SourceError: the file is missing, or an entry is not as it should be.
    """
    files = _FILES[name]
    file = next((file for file in files if raw.has(file)), files[0])
    entries = raw.json(file)
    rows = []
    try:
        for entry in entries:
            image = entry.get("file_path") or entry["img_path"]
            rows.append(
                DatasetRow(
                    image,
                    raw.image(image),
                    tuple(caption.strip() for caption in entry["captions"]),
                    entry["split"],
                    instance=f"person-{int(entry['id'])}",
                )
            )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f"{raw.folder}: {file}, entry {len(rows) + 1}: {error!r}") from error
    return rows
