"""Opening a gallery, and finding its model."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import dualpath
from dualpath.errors import BundleError, GalleryError

if TYPE_CHECKING:
    from dualpath import DualPath, Gallery
    from dualpath.gallery.schema import Hit


def ids(hits: list["Hit"]) -> list[str]:
    return [hit.image.id for hit in hits]


@pytest.mark.usefixtures("gallery")
def test_a_gallery_refuses_another_model(address: str, bundle: Path) -> None:
    import torch

    other = dualpath.load(bundle)
    with torch.no_grad():
        next(other.network.parameters()).add_(1)
    with pytest.raises(GalleryError, match="was filled with the model small"):
        dualpath.Gallery.open(address, model=other)


def test_a_gallery_loads_the_model_that_filled_it_when_it_is_needed(
    gallery: "Gallery", address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ids(gallery.search("a star", top=5))
    loaded = []

    def load(source: str) -> "DualPath":
        loaded.append(source)
        return dualpath.load(source)

    monkeypatch.setattr("dualpath.gallery.model_source.load_bundle", load)
    with dualpath.Gallery.open(address) as opened:
        assert len(opened) == 100
        assert opened.verify() == []
        assert opened.facets()
        assert loaded == []
        assert ids(opened.search("a star", top=5)) == expected
        assert ids(opened.search("a star", top=5)) == expected
        assert loaded == [gallery.info.source]


def test_a_gallery_can_be_opened_with_the_folder_of_a_bundle(
    gallery: "Gallery", address: str, bundle: Path
) -> None:
    for model in (bundle, str(bundle)):
        with dualpath.Gallery.open(address, model=model) as opened:
            assert ids(opened.search("a star")) == ids(gallery.search("a star"))
    with pytest.raises(BundleError, match="does not exist"):
        dualpath.Gallery.open(address, model=bundle / "none")


@pytest.fixture
def own_bundle(address: str, bundle: Path, photos: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, which has filled the gallery at ``address``."""
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    with dualpath.Gallery.open(address, model=copy) as gallery:
        gallery.add(photos)
    return copy


def test_a_gallery_whose_model_has_moved_says_so(
    own_bundle: Path, address: str, bundle: Path
) -> None:
    shutil.rmtree(own_bundle)
    with dualpath.Gallery.open(address) as gallery:
        assert len(gallery) == 100
        with pytest.raises(GalleryError, match=r"cannot be loaded .*does not exist.*--model"):
            gallery.search("a star")
    with dualpath.Gallery.open(address, model=bundle) as gallery:
        assert gallery.search("a star")


def test_a_gallery_whose_bundle_has_other_weights_says_so(own_bundle: Path, address: str) -> None:
    import torch

    other = dualpath.load(own_bundle)
    with torch.no_grad():
        next(other.network.parameters()).add_(1)
    other.save_pretrained(own_bundle)
    with (
        dualpath.Gallery.open(address) as gallery,
        pytest.raises(GalleryError, match="was filled with the model small"),
    ):
        gallery.search("a star")


@pytest.mark.usefixtures("gallery")
def test_a_gallery_of_a_model_without_a_bundle_says_so(address: str, tmp_path: Path) -> None:
    record = tmp_path / "gallery" / "gallery.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "source": None}))
    with (
        dualpath.Gallery.open(address) as gallery,
        pytest.raises(GalleryError, match="does not record where its model is"),
    ):
        gallery.search("a star")


def test_a_folder_without_a_gallery_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="the gallery does not exist; create it with"):
        dualpath.Gallery.open(tmp_path / "none")


def test_an_empty_gallery_cannot_be_searched(tmp_path: Path, model: "DualPath") -> None:
    with dualpath.Gallery.open(tmp_path / "new", model=model) as gallery:
        assert len(gallery) == 0
        with pytest.raises(GalleryError, match="the gallery is empty"):
            gallery.search("x")


@pytest.mark.usefixtures("gallery")
def test_a_gallery_of_another_format_is_an_error(tmp_path: Path) -> None:
    record = tmp_path / "gallery" / "gallery.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "format": 99}))
    with pytest.raises(GalleryError, match="written by another version of DualPath"):
        dualpath.Gallery.open(tmp_path / "gallery")
