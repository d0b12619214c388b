"""Finding the image files of a folder, and naming what is not read."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dualpath.data.formats import describe_others, image_suffixes
from dualpath.utils.text import error_reason, first_n_and_more

_MANIFESTS = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_SHOWN = 3


class FoundFiles(NamedTuple):
    """The image files of a folder.

    Attributes:
        names: paths relative to the folder, sorted.
        notes: what is not read, a line each.
    """

    names: list[str]
    notes: tuple[str, ...]


def find_image_files(folder: Path, without: Sequence[str] = ()) -> FoundFiles:
    """Find the image files of a folder at any depth. Links to folders are not followed.

    Args:
        folder: to search.
        without: folders directly in it that are left out.
    """
    found: list[Path] = []
    others: list[str] = []
    manifests: list[str] = []
    unreadable: list[str] = []

    def remember(error: OSError) -> None:
        unreadable.append(f"{error.filename} ({error.strerror or error_reason(error)})")

    for parent, folders, names in os.walk(folder, onerror=remember):
        if parent == str(folder):
            folders[:] = [name for name in folders if name not in without]
        for name in names:
            path = Path(parent, name)
            suffix = path.suffix.lower()
            if suffix in image_suffixes():
                found.append(path)
            else:
                others.append(suffix)
            if name in _MANIFESTS:
                manifests.append(str(path.relative_to(folder)))
    notes = [
        describe_others(others),
        _note("cannot be read", unreadable),
        _note("manifests below the folder are not read, index their folders", manifests),
    ]
    names = [str(path.relative_to(folder)) for path in sorted(found)]
    return FoundFiles(names, tuple(note for note in notes if note))


def _note(text: str, names: Sequence[str]) -> str:
    return f"{text}: {first_n_and_more(names, _SHOWN)}" if names else ""
