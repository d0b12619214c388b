"""From the official files of a data set to a folder with a manifest."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from dualpath.datasets import flickr, mscoco, person
from dualpath.datasets.base import Counts, DatasetRow, PreparedDataset, write_rows
from dualpath.datasets.download import FILES, download
from dualpath.datasets.folder import read_folder
from dualpath.datasets.raw_folder import RawFolder
from dualpath.errors import DatasetError

DatasetName = Literal[
    "flickr8k", "flickr30k", "mscoco", "cuhk_pedes", "icfg_pedes", "rstp_reid", "folder"
]
Say = Callable[[str], None]
SPLITS: dict[DatasetName, tuple[str, ...]] = {
    "flickr8k": flickr.SPLITS,
    "flickr30k": flickr.SPLITS,
    "mscoco": mscoco.SPLITS,
}


def prepare(
    name: DatasetName,
    raw: Path,
    out: Path,
    *,
    split: str | None = None,
    resize: int | None = None,
    fetch: bool = False,
    workers: int = 2,
    say: Say = lambda _: None,
    progress: Callable[[int], None] = lambda _: None,
) -> PreparedDataset:
    """Write the manifest of a data set.

    Args:
        name: which.
        raw: folder with its files, unpacked or (annotations alone) inside their zip.
        out: folder to write.
        split: which of :data:`SPLITS`; the first where there is a choice.
        resize: write copies of so many pixels instead of naming the images where they are.
        fetch: fetch captions and splits into ``raw`` first, where they can be had.
        say: called with the licence of what is fetched.
        advance: called with the number of images resized, or bytes fetched, since the last call.

    Raises:
        SourceError: files are missing or not as published.
    """
    split = _chosen_split(name, split)
    if fetch:
        file = FILES.get((name, split))
        if file is None:
            raise DatasetError(
                f"{name}: its files are given out on request by its authors and cannot be fetched; "
                "put them into --raw"
            )
        say(f"fetching {file.url}: {file.licence}")
        download(file, raw, progress)
    rows, published = _read(name, RawFolder(raw), split)
    return write_rows(
        rows,
        out,
        published=published,
        resize=resize,
        square=name in get_args(person.DatasetName),
        workers=workers,
        progress=progress,
    )


def _chosen_split(name: DatasetName, split: str | None) -> str:
    choices = SPLITS.get(name, ())
    if split is None:
        return choices[0] if choices else ""
    if split not in choices:
        raise DatasetError(
            f"{name} has no split '{split}'; "
            + (f"choose one of {', '.join(choices)}" if choices else "leave --split out")
        )
    return split


def _read(name: DatasetName, raw: RawFolder, split: str) -> tuple[list[DatasetRow], Counts | None]:
    if name == "flickr8k" or name == "flickr30k":
        return flickr.read_flickr(raw, name, split), flickr.PUBLISHED[name, split]
    if name == "mscoco":
        return mscoco.read_mscoco(raw, split), mscoco.PUBLISHED[split]
    if name == "folder":
        return read_folder(raw), None
    return person.read_person(raw, name), person.PUBLISHED[name]
