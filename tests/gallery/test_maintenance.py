"""Maintaining a gallery: removing, synchronising, verifying, exporting, counting values."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from dualpath.errors import GalleryError
from dualpath.gallery.schema import CAPTIONS, IMAGES
from tests.gallery.conftest import images_of, in_both_stores, reading_both_stores

if TYPE_CHECKING:
    from dualpath import DualPath, Gallery


@in_both_stores
def test_images_are_removed_by_id_by_file_and_by_folder(gallery: "Gallery", photos: Path) -> None:
    images = images_of(photos)
    first = gallery.search(images[0].path, top=1)[0].image
    assert gallery.remove(first.id, images[1].path) == 2
    assert len(gallery) == 98
    assert gallery.get(first.id) is None
    assert gallery.store.count(CAPTIONS) == 98 * 3
    assert gallery.remove(photos) == 98
    assert len(gallery) == 0
    assert images[0].path.exists()


@in_both_stores
def test_verify_reports_missing_and_changed_files_and_sync_removes_missing_ones(
    gallery: "Gallery", photos: Path
) -> None:
    images = images_of(photos)
    images[2].path.unlink()
    images[3].path.write_bytes(images[4].path.read_bytes())
    problems = gallery.verify()
    assert len(problems) == 2
    assert any(images[2].path.name in line and "gallery sync" in line for line in problems)
    assert any(images[3].path.name in line and "has changed" in line for line in problems)
    assert gallery.sync() == 1
    assert len(gallery) == 99
    gallery.remove(images[3].path)
    assert gallery.verify() == []


@in_both_stores
def test_captions_without_an_image_are_reported_and_removed(gallery: "Gallery") -> None:
    image = gallery.search("a star", top=1)[0].image
    gallery.store.delete(IMAGES, "id", [image.id])  # as if a process was killed here
    assert gallery.verify() == [f"{image.id}: has captions but no image; run dualpath gallery sync"]
    assert all(hit.image.id != image.id for hit in gallery.search_captions("a star", top=300))
    assert gallery.sync() == 0
    assert gallery.verify() == []
    assert gallery.store.count(CAPTIONS) == 99 * 3


def test_verify_reports_an_image_that_lacks_captions(gallery: "Gallery") -> None:
    image = gallery.search("a star", top=1)[0].image
    gallery.store.delete(CAPTIONS, "id", [f"{image.id}-1"])
    [problem] = gallery.verify()
    assert problem.startswith(f"{image.id}: 2 of 3 captions are stored")


def test_sync_refuses_to_run_if_an_indexed_folder_is_missing(
    gallery: "Gallery", photos: Path
) -> None:
    shutil.move(photos, photos.with_name("elsewhere"))
    with pytest.raises(GalleryError, match="the folder does not exist; mount its disk"):
        gallery.sync()
    assert len(gallery) == 100


@reading_both_stores
def test_facets_count_the_values_of_fields_with_few_values(full_gallery: "Gallery") -> None:
    facets = full_gallery.facets(max_values=20)
    assert set(facets) == {"even", "colour", "kind", "count"}  # the last two are of the shapes
    assert sorted(facets["even"]) == [(False, 50), (True, 50)]
    assert sum(count for _, count in facets["colour"]) == 66


@reading_both_stores
def test_export_writes_all_images_with_vectors_to_a_parquet_file(
    full_gallery: "Gallery", tmp_path: Path, model: "DualPath"
) -> None:
    path = tmp_path / "out" / "gallery.parquet"
    assert full_gallery.export(path) == 100
    assert list(path.parent.iterdir()) == [path]
    row = pq.read_table(path).slice(0, 1).to_pylist()[0]
    assert row["vector"] == pytest.approx(model.embed_images([row["path"]])[0], abs=1e-5)
    assert len(row["captions"]) == 3
    assert json.loads(row["metadata"])["even"] in (True, False)
