"""What a look at a whole folder of captioned pictures finds, before training meets it."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dualpath.data.cache import default_cache_folder
from dualpath.data.manifest import Item, read_manifest
from dualpath.data.pictures import survey_pictures

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
    manifest = read_manifest(folder)
    items = manifest.items
    survey = survey_pictures(
        [item.path for item in items], cache or default_cache_folder(), advance
    )
    splits = ", ".join(f"{name} {count:,}" for name, count in manifest.splits.items())
    counts = [
        f"{len(items):,} pictures ({splits})",
        f"{len(manifest.captions):,} captions",
        f"{len({item.instance for item in items}):,} instances",
    ]
    warnings = []
    if manifest.empty_captions:
        warnings.append(f"{manifest.empty_captions:,} empty captions are ignored")
    bare = [item.file_name for item in items if not item.captions]
    if bare:
        warnings.append(f"{len(bare):,} pictures have no caption: {_listed(bare)}")
    warnings += _duplicates(items, survey.hashes)
    return Report(counts, warnings, list(survey.broken.values()))


def _duplicates(items: tuple[Item, ...], hashes: dict[Path, str]) -> list[str]:
    """Tell pictures of the same content in different splits, and how many repeat within one."""
    same: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        if item.path in hashes:
            same[hashes[item.path]].append(item)
    repeated = [group for group in same.values() if len(group) > 1]
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
