"""Stores of random vectors, which need no model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dualpath.gallery.filters import Field
from dualpath.gallery.info import GalleryInfo
from dualpath.gallery.schema import IMAGES, GalleryImage, to_rows
from dualpath.gallery.stores.lance import LanceStore
from dualpath.types import Vectors

DIM = 16
FIELDS = {
    "colour": Field("field_0", "text"),
    "year": Field("field_1", "number"),
    "sold": Field("field_2", "boolean"),
}


def unit_vectors(count: int, seed: int, dim: int = DIM) -> Vectors:
    """Return vectors around 50 random centres."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((50, dim))
    vectors = centres[generator.integers(0, 50, count)]
    vectors = vectors + 0.5 * generator.standard_normal((count, dim))
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def write_images(
    store: LanceStore, numbers: list[int], vectors: Vectors, metadata: list[dict[str, Any]]
) -> None:
    """Write the images with these numbers, of which the name is the number."""
    images = [
        GalleryImage(
            id=f"{number:032x}",
            path=Path(f"/images/{number}.jpg"),
            name=str(number),
            size=1,
            modified=1,
            width=40,
            height=30,
            content=f"{number:032x}",
            captions=(f"caption of {number}", 'it\'s "ünïcode"'),
            metadata=values,
        )
        for number, values in zip(numbers, metadata, strict=True)
    ]
    captions = np.zeros((2 * len(images), vectors.shape[1]), np.float32)
    captions[:, 0] = 1
    store.upsert(IMAGES, to_rows(images, vectors, captions, FIELDS).images)


def metadata_of(number: int) -> dict[str, Any]:
    """Return metadata: one image in 10 is red, one in 100 is of 1900, 20 are sold."""
    values: dict[str, Any] = {"colour": "red" if number % 10 == 0 else "it's blue"}
    if number % 7:
        values["year"] = 1900 + number % 100
    if number < 20:
        values["sold"] = True
    return values


@pytest.fixture
def new_store(tmp_path: Path) -> Callable[..., LanceStore]:
    def create(count: int, dim: int = DIM) -> LanceStore:
        store = LanceStore(str(tmp_path / "gallery"))
        info = GalleryInfo("0" * 32, "random", None, dim, (), FIELDS)
        store.write_metadata(info.to_metadata())
        store.add_fields(FIELDS)
        if count:
            numbers = list(range(count))
            write_images(
                store, numbers, unit_vectors(count, 1, dim), [metadata_of(n) for n in numbers]
            )
        return store

    return create
