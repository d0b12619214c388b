"""Changing metadata of indexed images, and classifying them."""

import numpy as np
import pytest

import dualpath
from dualpath.errors import FieldError
from dualpath.gallery.schema import IMAGES
from dualpath.gallery.tagging import classify_gallery
from dualpath.inference.zero_shot import ZeroShotClassifier


@pytest.fixture
def gallery(shapes, model, tmp_path):
    with dualpath.Gallery.open(tmp_path / "gallery", model=model) as gallery:
        gallery.add(shapes)
        yield gallery


def test_labels_become_a_field_for_filters(gallery, model):
    classifier = ZeroShotClassifier.from_labels(model, ["red star", "blue circle"], ["a {}"])
    assert classify_gallery(gallery, classifier, "shape") == 100
    assert gallery.info.fields["shape"].kind == "text"
    assert gallery.info.fields["shape_probability"].kind == "number"
    hits = gallery.search("a star", top=100, where="shape = 'red star'")
    everything = gallery.search("a star", top=100)
    expected = [hit for hit in everything if hit.image.metadata["shape"] == "red star"]
    assert [hit.image.id for hit in hits] == [hit.image.id for hit in expected]
    one = everything[0].image
    [[best]] = classifier.classify(model.embed_images([one.path]), top=1)
    assert one.metadata["shape"] == best.label
    assert one.metadata["shape_probability"] == pytest.approx(best.probability, abs=1e-3)


def test_new_values_change_nothing_else(gallery):
    before = {hit.image.id: hit for hit in gallery.search("a star", top=100)}
    captions = [hit.caption for hit in gallery.search_captions("a star", top=20)]
    chosen = next(iter(before))
    gallery.update_metadata({chosen: {"year": 2020}, "0" * 32: {"year": 1}})
    after = {hit.image.id: hit for hit in gallery.search("a star", top=100)}
    assert list(after) == list(before)
    assert after[chosen].image.metadata == {**before[chosen].image.metadata, "year": 2020}
    assert after[chosen].image.captions == before[chosen].image.captions
    assert np.allclose([h.score for h in after.values()], [h.score for h in before.values()])
    assert [hit.caption for hit in gallery.search_captions("a star", top=20)] == captions
    assert gallery.verify() == []
    assert gallery.store.count(IMAGES) == 100


def test_a_value_of_another_type_is_refused_before_anything_is_written(gallery):
    chosen = gallery.search("a star", top=1)[0].image
    with pytest.raises(FieldError, match="'count' is 'many'"):
        gallery.update_metadata({chosen.id: {"count": "many"}})
    assert gallery.get(chosen.id) == chosen
