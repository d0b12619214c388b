"""The named protocols against a slow reference written from their definitions."""

import numpy as np
import pytest

from dualpath.errors import ProtocolError
from dualpath.evaluation.protocols import find_protocol

WAYS = ("image_to_text", "text_to_image")


def reference(queries, gallery, of_queries, of_gallery):
    """One query at a time: sort by score, wrong items first among equals, and read off."""
    first, precision, penalty = [], [], []
    for query, instance in zip(queries, of_queries, strict=True):
        scores = gallery @ query
        right = of_gallery == instance
        order = np.lexsort((right, -scores))
        ranks = np.flatnonzero(right[order]) + 1
        first.append(ranks[0])
        precision.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
        penalty.append(len(ranks) / ranks[-1])
    cumulative = [np.mean(np.array(first) <= k) for k in range(1, len(gallery) + 1)]
    return {
        "recall_at_1": 100 * cumulative[0],
        "recall_at_5": 100 * cumulative[4],
        "recall_at_10": 100 * cumulative[9],
        "median_rank": 1 + next(k for k, share in enumerate(cumulative) if share > 0.5),
        "mean_rank": np.mean(first),
        "map": 100 * np.mean(precision),
        "minp": 100 * np.mean(penalty),
    }


def embeddings(kind, images, generator):
    """Small whole numbers, whose products are exact, so that ties are ties in both."""
    counts = generator.integers(3, 8, size=images)  # unequal captions an image
    of_images, of_texts = np.arange(images), np.repeat(np.arange(images), counts)
    top = {"random": 9, "ties": 2, "duplicates": 9}[kind]
    image_vectors = generator.integers(-top, top, size=(images, 4)).astype(np.float32)
    if kind == "duplicates":
        image_vectors[::2] = image_vectors[0]
    noise = generator.integers(-1, 2, size=(len(of_texts), 4))
    return image_vectors, (image_vectors[of_texts] + noise).astype(np.float32), of_images, of_texts


def check(found, expected):
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-12, abs=1e-12), name


@pytest.mark.parametrize("kind", ["random", "ties", "duplicates"])
def test_flickr_1k(kind):
    images, texts, a, b = embeddings(kind, 1000, np.random.default_rng(1))
    found = find_protocol("flickr-1k")(images, texts, a, b)
    check(found["image_to_text"], reference(images, texts, a, b))
    check(found["text_to_image"], reference(texts, images, b, a))
    assert (found["images"], found["captions"]) == (1000, len(texts))


@pytest.mark.parametrize("kind", ["random", "ties", "duplicates"])
def test_coco_1k_is_the_mean_of_five_consecutive_folds(kind):
    images, texts, a, b = embeddings(kind, 5000, np.random.default_rng(2))
    found = find_protocol("coco-1k")(images, texts, a, b)
    folds = []
    for k in range(5):
        part, told = slice(1000 * k, 1000 * k + 1000), (b >= 1000 * k) & (b < 1000 * k + 1000)
        folds.append(
            (
                reference(images[part], texts[told], a[part], b[told]),
                reference(texts[told], images[part], b[told], a[part]),
            )
        )
    for number, way in enumerate(WAYS):
        check(found[way], {k: np.mean([f[number][k] for f in folds]) for k in folds[0][0]})
    recalls = [found[way][f"recall_at_{k}"] for way in WAYS for k in (1, 5, 10)]
    assert found["rsum"] == pytest.approx(sum(recalls))


def test_coco_5k_is_one_gallery_of_all():
    images, texts, a, b = embeddings("random", 5000, np.random.default_rng(3))
    found = find_protocol("coco-5k")(images, texts, a, b)
    some = np.arange(0, len(texts), 97)
    whole = [reference(texts[[i]], images, b[[i]], a)["mean_rank"] for i in some]
    again = find_protocol("all")(images, texts, a, b)
    assert found["text_to_image"] == again["text_to_image"]
    assert all(rank >= 1 for rank in whole)


@pytest.mark.parametrize("kind", ["random", "ties", "duplicates"])
def test_person_counts_every_image_of_the_identity(kind):
    generator = np.random.default_rng(4)
    images, texts, a, b = embeddings(kind, 300, generator)
    people = generator.integers(0, 60, size=300)
    found = find_protocol("person")(images, texts, people[a], people[b])
    check(found["text_to_image"], reference(texts, images, people[b], people[a]))
    assert "image_to_text" not in found
    assert found["identities"] == len(np.unique(people))


def test_inverse_penalty_by_hand():
    # The right images of the one query stand at places 1 and 4 of four: 2 / 4.
    images = np.array([[4.0], [3.0], [2.0], [1.0]], np.float32)
    found = find_protocol("person")(
        images, np.ones((1, 1), np.float32), np.array([0, 1, 2, 0]), np.array([0])
    )
    assert found["text_to_image"]["minp"] == 50
    assert found["text_to_image"]["map"] == pytest.approx(100 * (1 + 2 / 4) / 2)


@pytest.mark.parametrize(
    ("name", "images", "message"),
    [
        ("flickr-1k", 999, "measured on 1,000 images, and the split has 999"),
        ("coco-1k", 1000, "measured on 5,000 images"),
        ("coco-5k", 5001, "the split has 5,001"),
    ],
)
def test_a_split_of_another_size_is_refused(name, images, message):
    vectors, ids = np.ones((images, 2), np.float32), np.arange(images)
    with pytest.raises(ProtocolError, match=message):
        find_protocol(name)(vectors, vectors, ids, ids)


def test_an_unknown_protocol_is_told_the_known_ones():
    with pytest.raises(ProtocolError, match="no protocol 'coco'; choose one of all, flickr-1k"):
        find_protocol("coco")
