"""Indexing images: new, changed, broken and forbidden ones."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import dualpath
from dualpath.errors import FieldError, GalleryError, ManifestError
from tests.gallery.conftest import images_of, in_both_stores, rewrite_manifest

if TYPE_CHECKING:
    from dualpath import DualPath, Gallery


@in_both_stores
def test_adding_a_folder_again_embeds_only_new_and_changed_images(
    gallery: "Gallery", photos: Path
) -> None:
    before = gallery.search("a star", top=100)
    assert gallery.add(photos).unchanged == 100
    images = images_of(photos)
    shutil.copy(images[1].path, images[0].path)  # other content
    images[2].path.touch()  # the same content
    rewrite_manifest(
        photos, lambda rows: rows[4].update(captions=["one new sentence"], number=4000)
    )
    summary = gallery.add(photos)
    assert (summary.new, summary.changed, summary.unchanged) == (0, 2, 98)
    assert len(gallery) == 100
    assert gallery.verify() == []
    after = {hit.image.name: hit for hit in gallery.search("a star", top=100)}
    assert after[images[0].file_name].score == pytest.approx(after[images[1].file_name].score)
    assert after[images[4].file_name].image.captions == ("one new sentence",)
    assert after[images[4].file_name].image.metadata["number"] == 4000
    for hit in before:
        if hit.image.name != images[0].file_name:
            assert after[hit.image.name].score == pytest.approx(hit.score, abs=1e-5)


def test_broken_images_are_reported_and_do_not_stop_the_others(
    address: str, model: "DualPath", photos: Path
) -> None:
    images = images_of(photos)
    images[0].path.write_bytes(images[0].path.read_bytes()[:200])
    images[1].path.write_text("not an image")
    images[2].path.unlink()
    with dualpath.Gallery.open(address, model=model) as gallery:
        summary = gallery.add(photos)
        assert summary.new == 97
        assert set(summary.broken) == {image.file_name for image in images[:3]}
        assert all(name in problem for name, problem in summary.broken.items())
        assert gallery.verify() == []


def test_metadata_of_another_type_is_refused_before_anything_is_written(
    gallery: "Gallery", photos: Path
) -> None:
    rewrite_manifest(photos, lambda rows: rows[5].update(number="many"))
    with pytest.raises(FieldError, match="'number' is 'many', but it is a number"):
        gallery.add(photos)
    assert len(gallery) == 100


def test_a_bad_manifest_is_refused_before_anything_is_written(
    gallery: "Gallery", photos: Path
) -> None:
    (photos / "metadata.jsonl").write_text("{")
    with pytest.raises(ManifestError, match="not valid JSON"):
        gallery.add(photos)
    assert len(gallery) == 100


def test_images_outside_of_the_folder_require_a_root(
    address: str, model: "DualPath", photos: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    image = images_of(photos)[0].path
    for name in ("a.png", "b.png"):
        shutil.copy(image, outside / name)
    (photos / "images" / "link.png").symlink_to(outside / "b.png")
    names = ("../outside/a.png", "images/link.png", str(outside / "b.png"))
    rewrite_manifest(
        photos,
        lambda rows: rows.extend(
            {"file_name": name, "captions": [], "split": "train"} for name in names
        ),
    )
    with dualpath.Gallery.open(address, model=model) as gallery:
        summary = gallery.add(photos)
        assert summary.new == 100
        assert len(summary.broken) == 3
        assert all("allow its folder with --root" in line for line in summary.broken.values())
        assert gallery.add(photos, roots=[outside]).new == 3
        assert gallery.verify() == []


def test_a_folder_that_does_not_exist_is_an_error(
    address: str, model: "DualPath", photos: Path, tmp_path: Path
) -> None:
    with dualpath.Gallery.open(address, model=model) as gallery:
        for folder, roots in ((tmp_path / "none", []), (photos, [tmp_path / "none"])):
            with pytest.raises(GalleryError, match="none: the folder does not exist"):
                gallery.add(folder, roots=roots)


def test_a_folder_without_a_manifest_is_indexed_without_captions(
    address: str, model: "DualPath", photos: Path
) -> None:
    (photos / "metadata.jsonl").unlink()
    with dualpath.Gallery.open(address, model=model) as gallery:
        assert gallery.add(photos).new == 100
        assert gallery.search("a star", top=2)[0].image.captions == ()
        assert gallery.search_captions("a star") == []


def test_progress_counts_every_image_of_the_manifest(
    address: str, model: "DualPath", photos: Path
) -> None:
    rewrite_manifest(
        photos, lambda rows: rows.append({"file_name": "../outside.png", "captions": []})
    )
    counts: list[int] = []
    with dualpath.Gallery.open(address, model=model) as gallery:
        gallery.add(photos, progress=counts.append)
    assert sum(counts) == 101


def test_one_image_can_be_added_and_replaced(address: str, model: "DualPath", photos: Path) -> None:
    path = images_of(photos)[0].path
    with dualpath.Gallery.open(address, model=model) as gallery:
        gallery.add_root(path.parent)
        first = gallery.add_image(path, captions=["a shape"], metadata={"year": 2020})
        second = gallery.add_image(path, captions=["one", "two"], metadata={"year": 2021})
        assert first.id == second.id
        assert len(gallery) == 1
        stored = gallery.get(first.id)
        assert stored is not None
        assert (stored.captions, stored.metadata) == (("one", "two"), {"year": 2021})
        assert gallery.info.roots == (path.parent,)
        assert gallery.verify() == []
        with pytest.raises(FieldError, match="'year' is 'x'"):
            gallery.add_image(path, metadata={"year": "x"})
