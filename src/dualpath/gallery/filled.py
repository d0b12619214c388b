"""What a gallery remembers of how it was filled."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from dualpath.gallery.errors import GalleryError
from dualpath.gallery.filters import Field
from dualpath.gallery.store import About

_FORMAT = 1


@dataclass(frozen=True)
class Filled:
    """What a gallery was filled with: the model and where it was, whose pictures, their fields."""

    model: str
    name: str
    source: str | None
    dim: int
    roots: tuple[Path, ...]
    fields: Mapping[str, Field]


def read_filled(address: str, about: About) -> Filled:
    """Read what the store of a gallery keeps; ``GalleryError`` if another version wrote it."""
    if about.get("format") != _FORMAT:
        raise GalleryError(f"{address}: written by another version of DualPath; fill a new gallery")
    return Filled(
        about["model"],
        about["name"],
        about["source"],
        about["dim"],
        tuple(map(Path, about["roots"])),
        {key: Field(**field) for key, field in about["fields"].items()},
    )


def write_filled(filled: Filled) -> About:
    """Write it for the store to keep."""
    return {
        "format": _FORMAT,
        **asdict(filled),
        "roots": [str(root) for root in filled.roots],
        "fields": {key: asdict(field) for key, field in filled.fields.items()},
    }
