"""Searching a gallery by sentences, images and filters."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dualpath.errors import FilterError, GalleryError, UnknownImageError
from tests.gallery.conftest import images_of, reading_both_stores

if TYPE_CHECKING:
    from dualpath import DualPath, Gallery
    from dualpath.data.record import ImageRecord
    from dualpath.gallery.schema import Hit


def photos_of(gallery: "Gallery") -> list["ImageRecord"]:
    return images_of(gallery.info.roots[0])


def ids(hits: list["Hit"]) -> list[str]:
    return [hit.image.id for hit in hits]


@reading_both_stores
def test_a_sentence_finds_the_same_images_as_a_comparison_with_all_images(
    full_gallery: "Gallery", model: "DualPath"
) -> None:
    images = photos_of(full_gallery)
    scores = model.embed_texts(["a red circle"])[0] @ model.embed_images([i.path for i in images]).T
    best = np.sort(scores)[::-1][:5]
    hits = full_gallery.search("a red circle", top=5)
    assert [hit.score for hit in hits] == pytest.approx(best, abs=1e-5)
    by_name = {image.file_name: image for image in images}
    for hit in hits:
        assert hit.image.captions == by_name[hit.image.name].captions
        assert hit.image.metadata["number"] == by_name[hit.image.name].metadata["number"]
        assert (hit.image.width, hit.image.height) == (40, 40)


def test_an_image_finds_itself_first(full_gallery: "Gallery") -> None:
    path = photos_of(full_gallery)[7].path
    hits = full_gallery.search(path, top=3)
    assert hits[0].image.path == path
    assert hits[0].score == pytest.approx(1, abs=1e-5)


def test_similar_images_do_not_include_the_image_itself(full_gallery: "Gallery") -> None:
    hits = full_gallery.search(photos_of(full_gallery)[7].path, top=3)
    assert ids(full_gallery.similar(hits[0].image.id, top=2)) == ids(hits)[1:]


def test_similar_images_of_an_unknown_id_are_an_error(full_gallery: "Gallery") -> None:
    with pytest.raises(UnknownImageError, match="no image of the gallery has the id 0000") as error:
        full_gallery.similar("0" * 32)
    assert isinstance(error.value, KeyError)


@reading_both_stores
def test_sentences_and_images_find_captions(full_gallery: "Gallery", model: "DualPath") -> None:
    caption = photos_of(full_gallery)[3].captions[1]
    found = full_gallery.search_captions(caption, top=4)
    assert found[0].score == pytest.approx(1, abs=1e-5)
    same = model.embed_texts([found[0].caption])[0] @ model.embed_texts([caption])[0]
    assert same == pytest.approx(1, abs=1e-5)
    assert found[0].caption in found[0].image.captions
    assert len(full_gallery.search_captions(photos_of(full_gallery)[0].path, top=3)) == 3


@reading_both_stores
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
    full_gallery: "Gallery", where: str, matches: Callable[[dict[str, Any]], bool]
) -> None:
    hits = full_gallery.search("a circle", top=100, where=where)
    everything = full_gallery.search("a circle", top=100)
    expected = {hit.image.id for hit in everything if matches(dict(hit.image.metadata))}
    assert expected
    assert set(ids(hits)) == expected
    assert len(full_gallery.search_captions("a circle", top=400, where=where)) == 3 * len(expected)


def test_a_gallery_refuses_a_bad_filter(full_gallery: "Gallery") -> None:
    with pytest.raises(FilterError, match="no image has the field 'size'"):
        full_gallery.search("x", where="size > 3")


def test_an_image_has_no_probabilities(full_gallery: "Gallery") -> None:
    with pytest.raises(FilterError, match="min_probability requires a sentence"):
        full_gallery.search(photos_of(full_gallery)[0].path, min_probability=0.5)


def test_a_gallery_refuses_vectors_of_another_length(full_gallery: "Gallery") -> None:
    with pytest.raises(GalleryError, match="the query has 16 dimensions, but the gallery has 32"):
        full_gallery.search_vector(np.ones(16, np.float32))
