"""What a look at a whole folder of captioned pictures finds, before training meets it."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dualpath.data.cache import default_cache_folder
from dualpath.data.items import Item, Items
from dualpath.data.manifest import read_manifest
from dualpath.data.pictures import survey_pictures
from dualpath.data.vector_store import Hashes

_SHOWN = 10


@dataclass(frozen=True)
class Report:
    """Counts, what may be unwanted, and what training would stop at; each a line."""

    counts: list[str]
    warnings: list[str]
    errors: list[str]


def check_folder(
    folder: Path, cache: Path | None = None, advance: Callable[[int], None] = lambda _: None
) -> Report:
    """Check the manifest of a folder and decode every picture.

    Raises:
        ManifestError: the manifest itself is bad; the message lists the rows.
    """
    cache = cache or default_cache_folder()
    manifest = read_manifest(folder, cache=cache)
    items = manifest.items
    survey = survey_pictures(items.paths, cache, advance)
    splits = ", ".join(f"{name} {count:,}" for name, count in manifest.splits.items())
    counts = [
        f"{len(items):,} pictures ({splits})",
        f"{items.caption_counts.sum():,} captions",
        f"{items.instance_numbers.max() + 1:,} instances",
    ]
    warnings = []
    if items.empty_captions:
        warnings.append(f"{items.empty_captions:,} empty captions are ignored")
    bare = list(items.where(items.caption_counts == 0).column("file_name"))
    if bare:
        warnings.append(f"{len(bare):,} pictures have no caption: {_listed(bare)}")
    warnings += _duplicates(items, survey.hashes)
    return Report(counts, warnings, list(survey.broken.values()))


def _duplicates(items: Items, hashes: Hashes) -> list[str]:
    """Tell pictures of the same content in different splits, and how many repeat within one."""
    _, number, count = np.unique(hashes, return_inverse=True, return_counts=True)
    same: dict[int, list[Item]] = defaultdict(list)
    for place in np.flatnonzero((count[number] > 1) & (hashes != b"")):
        same[int(number[place])].append(items[int(place)])
    repeated = list(same.values())
    across = [group for group in repeated if len({item.split for item in group}) > 1]
    lines = [
        "the same picture in two splits: "
        + ", ".join(f"{item.file_name} ({item.split})" for item in group)
        for group in across[:_SHOWN]
    ]
    if len(across) > _SHOWN:
        lines.append(f"... and {len(across) - _SHOWN} more such groups")
    if len(repeated) > len(across):
        lines.append(f"{len(repeated) - len(across):,} pictures come more than once in one split")
    return lines


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
