"""A gallery through its public interface: opening and searching."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import dualpath
from dualpath.errors import BundleError, FilterError, GalleryError, UnknownImageError
from tests.gallery.conftest import images_of, in_both_stores

if TYPE_CHECKING:
    from dualpath import DualPath, Gallery
    from dualpath.gallery.schema import Hit


def ids(hits: list["Hit"]) -> list[str]:
    return [hit.image.id for hit in hits]


@in_both_stores
def test_a_sentence_finds_the_same_images_as_a_comparison_with_all_images(
    gallery: "Gallery", model: "DualPath", photos: Path
) -> None:
    images = images_of(photos)
    scores = model.embed_texts(["a red circle"])[0] @ model.embed_images([i.path for i in images]).T
    best = np.sort(scores)[::-1][:5]
    hits = gallery.search("a red circle", top=5)
    assert [hit.score for hit in hits] == pytest.approx(best, abs=1e-5)
    by_name = {image.file_name: image for image in images}
    for hit in hits:
        assert hit.image.captions == by_name[hit.image.name].captions
        assert hit.image.metadata["number"] == by_name[hit.image.name].metadata["number"]
        assert (hit.image.width, hit.image.height) == (40, 40)


def test_an_image_finds_itself_first(gallery: "Gallery", photos: Path) -> None:
    path = images_of(photos)[7].path
    hits = gallery.search(path, top=3)
    assert hits[0].image.path == path
    assert hits[0].score == pytest.approx(1, abs=1e-5)


def test_similar_images_do_not_include_the_image_itself(gallery: "Gallery", photos: Path) -> None:
    hits = gallery.search(images_of(photos)[7].path, top=3)
    assert ids(gallery.similar(hits[0].image.id, top=2)) == ids(hits)[1:]


def test_similar_images_of_an_unknown_id_are_an_error(gallery: "Gallery") -> None:
    with pytest.raises(UnknownImageError, match="no image of the gallery has the id 0000") as error:
        gallery.similar("0" * 32)
    assert isinstance(error.value, KeyError)


@in_both_stores
def test_sentences_and_images_find_captions(
    gallery: "Gallery", model: "DualPath", photos: Path
) -> None:
    caption = images_of(photos)[3].captions[1]
    found = gallery.search_captions(caption, top=4)
    assert found[0].score == pytest.approx(1, abs=1e-5)
    same = model.embed_texts([found[0].caption])[0] @ model.embed_texts([caption])[0]
    assert same == pytest.approx(1, abs=1e-5)
    assert found[0].caption in found[0].image.captions
    assert len(gallery.search_captions(images_of(photos)[0].path, top=3)) == 3


@in_both_stores
@pytest.mark.parametrize(
    ("where", "matches"),
    [
        ("number >= 90", lambda m: m["number"] >= 90),
        ("colour = 'red' and even = true", lambda m: m.get("colour") == "red" and m["even"]),
        ("colour = 'it''s ''blue'''", lambda m: m.get("colour") == "it's 'blue'"),
        ("colour is null", lambda m: "colour" not in m),
        ("colour != 'red'", lambda m: m.get("colour", "red") != "red"),
        (
            "not (colour in ('red', 'green') or number < 50)",
            lambda m: m.get("colour", "red") not in ("red", "green") and m["number"] >= 50,
        ),
    ],
)
def test_a_filter_selects_images_and_captions(
    gallery: "Gallery", where: str, matches: Callable[[dict[str, Any]], bool]
) -> None:
    hits = gallery.search("a circle", top=100, where=where)
    everything = gallery.search("a circle", top=100)
    expected = {hit.image.id for hit in everything if matches(dict(hit.image.metadata))}
    assert expected
    assert set(ids(hits)) == expected
    assert len(gallery.search_captions("a circle", top=400, where=where)) == 3 * len(expected)


def test_a_gallery_refuses_a_bad_filter(gallery: "Gallery") -> None:
    with pytest.raises(FilterError, match="no image has the field 'size'"):
        gallery.search("x", where="size > 3")


def test_an_image_has_no_probabilities(gallery: "Gallery", photos: Path) -> None:
    with pytest.raises(FilterError, match="min_probability requires a sentence"):
        gallery.search(images_of(photos)[0].path, min_probability=0.5)


@pytest.mark.usefixtures("gallery")
def test_a_gallery_refuses_another_model(address: str, bundle: Path) -> None:
    import torch

    other = dualpath.load(bundle)
    with torch.no_grad():
        next(other.network.parameters()).add_(1)
    with pytest.raises(GalleryError, match="was filled with the model small"):
        dualpath.Gallery.open(address, model=other)


def test_a_gallery_refuses_vectors_of_another_length(gallery: "Gallery") -> None:
    with pytest.raises(GalleryError, match="the query has 16 dimensions, but the gallery has 32"):
        gallery.search_vector(np.ones(16, np.float32))


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
