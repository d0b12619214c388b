"""From the files of a data set to a folder with a manifest.

A new data set is a module of this package with a :class:`~dualpath.datasets.base.DatasetSpec`, and
a line in :data:`DATASETS`.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from dualpath.datasets.base import DatasetSpec, PreparedDataset
from dualpath.datasets.raw_folder import RawFolder
from dualpath.errors import DatasetError
from dualpath.types import Progress, no_progress

DATASETS: dict[str, str] = {
    "flickr8k": "dualpath.datasets.flickr:FLICKR8K",
    "flickr30k": "dualpath.datasets.flickr:FLICKR30K",
    "mscoco": "dualpath.datasets.coco:MSCOCO",
    "cuhk_pedes": "dualpath.datasets.person_search:CUHK_PEDES",
    "icfg_pedes": "dualpath.datasets.person_search:ICFG_PEDES",
    "rstp_reid": "dualpath.datasets.person_search:RSTP_REID",
    "folder": "dualpath.datasets.folder:FOLDER",
}


def prepare(
    name: str,
    raw: Path | str,
    out: Path | str,
    *,
    split: str | None = None,
    resize: int | None = None,
    download: bool = False,
    workers: int = 2,
    log: Callable[[str], None] = lambda _: None,
    progress: Progress = no_progress,
) -> PreparedDataset:
    """Write the manifest of a data set.

    Args:
        name: of the data set: ``"flickr8k"``, ``"flickr30k"``, ``"mscoco"``, ``"cuhk_pedes"``,
            ``"icfg_pedes"``, ``"rstp_reid"``, or ``"folder"`` for your own images.
        raw: folder with the files of the data set. Annotations may be inside their zip; images
            must be unpacked.
        out: folder to write.
        split: the way to split: ``"karpathy"`` or ``"flickr8k-lists"`` for Flickr; ``"karpathy"``,
            ``"2014"`` or ``"2017"`` for MSCOCO (default: the first).
        resize: write copies whose shorter side has this many pixels. None: the manifest refers to
            the images where they are.
        download: first download captions and splits into ``raw``.
        workers: processes that resize.
        log: called with a line that names the download and its licence.
        progress: called with the number of images resized, or bytes downloaded, since the last
            call.

    Raises:
        DatasetError: the data set or the split does not exist, files are missing or not as
            published, or the data set cannot be downloaded.
    """
    raw, out = Path(raw), Path(out)
    spec = find_dataset(name)
    split = spec.splits[0] if split is None else split
    if split not in spec.splits:
        raise DatasetError(f"{name} has no split '{split}'; choose one of {', '.join(spec.splits)}")
    if download:
        file = spec.downloads.get(split)
        if file is None:
            raise DatasetError(
                f"{name}: the files of split '{split}' cannot be downloaded; ask the authors of "
                f"the data set for them, and put them into {raw}"
            )
        log(f"downloading {file.url}: {file.licence}")
        from dualpath.datasets.download import download_file

        download_file(file, raw, progress)
    from dualpath.datasets.writing import write_dataset  # imports pyarrow

    return write_dataset(
        spec.read(RawFolder(raw), split),
        out,
        published=spec.published.get(split),
        resize=resize,
        square=spec.square,
        workers=workers,
        progress=progress,
    )


def find_dataset(name: str) -> DatasetSpec:
    """Return the specification of a data set.

    >>> find_dataset("mscoco").splits
    ('karpathy', '2014', '2017')

    Raises:
        DatasetError: it does not exist.
    """
    if name not in DATASETS:
        raise DatasetError(f"data set '{name}' does not exist; choose one of {', '.join(DATASETS)}")
    module, _, attribute = DATASETS[name].partition(":")
    spec: DatasetSpec = getattr(import_module(module), attribute)
    return spec
