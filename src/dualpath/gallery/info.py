"""What a gallery records about itself: the model, the folders and the metadata fields."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dualpath.errors import GalleryError
from dualpath.gallery.filters import Field
from dualpath.gallery.schema import merge_fields
from dualpath.gallery.stores.base import Store, StoreMetadata

_FORMAT = 1


@dataclass(frozen=True)
class GalleryInfo:
    """The record of a gallery.

    Attributes:
        fingerprint: of the model that embedded the images (:attr:`DualPath.fingerprint`).
        name: of the recipe of the model.
        source: folder or hub id from which the model was loaded. None if it was never saved.
        dim: length of the vectors.
        roots: folders whose images may be indexed and shown.
        fields: metadata keys that filters can use.
    """

    fingerprint: str
    name: str
    source: str | None
    dim: int
    roots: tuple[Path, ...]
    fields: Mapping[str, Field]

    @classmethod
    def from_metadata(cls, address: str, metadata: StoreMetadata) -> "GalleryInfo":
        """Read the metadata of a store.

        Raises:
            GalleryError: another version of DualPath has written it.
        """
        if metadata.get("format") != _FORMAT:
            raise GalleryError(
                f"{address}: written by another version of DualPath; create a new gallery"
            )
        return cls(
            fingerprint=metadata["model"],
            name=metadata["name"],
            source=metadata["source"],
            dim=metadata["dim"],
            roots=tuple(map(Path, metadata["roots"])),
            fields={key: Field(**field) for key, field in metadata["fields"].items()},  # type: ignore[arg-type]
        )

    def to_metadata(self) -> StoreMetadata:
        """Return the record as a store writes it."""
        return {
            "format": _FORMAT,
            "model": self.fingerprint,
            "name": self.name,
            "source": self.source,
            "dim": self.dim,
            "roots": [str(root) for root in self.roots],
            "fields": {key: asdict(field) for key, field in self.fields.items()},
        }


def read_info(store: Store, address: str, fingerprint: str | None = None) -> GalleryInfo | None:
    """Read the record of a gallery. None: the gallery does not exist.

    Args:
        store: of the gallery.
        address: of the gallery, for error messages.
        fingerprint: of the model that the caller expects. None: any model.

    Raises:
        GalleryError: the gallery was created again with another model, or its record cannot be
            read.
    """
    metadata = store.read_metadata()
    if metadata is None:
        return None
    info = GalleryInfo.from_metadata(address, metadata)
    if fingerprint not in (None, info.fingerprint):
        raise GalleryError(
            f"{address}: was created again with another model; close the gallery and open it again"
        )
    return info


def register_fields(
    store: Store,
    address: str,
    info: GalleryInfo,
    roots: Sequence[Path],
    records: Iterable[tuple[str, Mapping[str, Any]]],
) -> GalleryInfo:
    """Add folders and metadata fields to the record of a gallery; create it if it does not exist.

    Args:
        store: of the gallery.
        address: of the gallery, for error messages.
        info: the record of a new gallery. Of an existing one, the stored record is used instead.
        roots: folders to add.
        records: names of images with their metadata, whose keys become fields.

    Returns:
        The new record.

    Raises:
        FieldError: a value does not have the type of its field.
        GalleryError: the gallery was created again with another model.
    """
    with store.write_lock():
        stored = read_info(store, address, info.fingerprint)
        if stored is None:
            store.write_metadata(info.to_metadata())
            stored = info
        fields = merge_fields(stored.fields, records)
        new_roots = [root for root in roots if root not in stored.roots]
        updated = replace(stored, roots=(*stored.roots, *new_roots), fields=fields)
        if updated != stored:
            store.add_fields(fields)
            store.write_metadata(updated.to_metadata())
    return updated
