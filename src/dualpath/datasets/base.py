"""The types of a data set: its rows, its specification and the result of preparing it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dualpath.datasets.download import RemoteFile
from dualpath.datasets.raw_folder import RawFolder

SplitCounts = Mapping[str, int]  # name of a split to number of images

DEFAULT_SPLIT = "default"  # of data sets that have been split in one way only


@dataclass(frozen=True)
class DatasetRow:
    """One image of a data set.

    Attributes:
        name: path of a resized copy below ``images/`` of the output folder.
        path: of the image file; it may be missing.
        captions: sentences.
        split: None: it is drawn when the manifest is read.
        instance: name of the class that the image belongs to. None: the image itself.
        metadata: further columns of the manifest.
    """

    name: str
    path: Path
    captions: tuple[str, ...]
    split: str | None
    instance: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetSpec:
    """A data set that ``dualpath prepare`` knows.

    Attributes:
        summary: one line of help.
        read: function of a folder and a way to split, which returns the rows; raises
            ``DatasetError``.
        splits: the ways in which the data set has been split; the first is the default.
        published: for each way, the number of images of each split as published.
        downloads: for each way, the file with captions and splits, if it may be downloaded.
        square: resized copies are squashed to a square (as the paper does with CUHK-PEDES).
    """

    summary: str
    read: Callable[[RawFolder, str], list[DatasetRow]]
    splits: tuple[str, ...] = (DEFAULT_SPLIT,)
    published: Mapping[str, SplitCounts] = field(default_factory=dict)
    downloads: Mapping[str, RemoteFile] = field(default_factory=dict)
    square: bool = False


@dataclass(frozen=True)
class PreparedDataset:
    """The result of preparing a data set.

    Attributes:
        manifest: path of the written manifest.
        image_counts: number of images of each split.
        warnings: missing images and differences from the published data set, a line each.
    """

    manifest: Path
    image_counts: SplitCounts
    warnings: list[str]
