"""The protocols against a slow reference that is written from their definitions."""

from dataclasses import asdict

import numpy as np
import pytest

from dualpath.errors import ProtocolError
from dualpath.evaluation.metrics import rank_relevant, retrieval_metrics
from dualpath.evaluation.protocols import (
    PROTOCOLS,
    EvaluationResult,
    evaluate_all,
    evaluate_coco_1k,
    evaluate_coco_5k,
    evaluate_flickr_1k,
    evaluate_person,
    find_protocol,
)


def reference(queries, gallery, of_queries, of_gallery):
    """Sort by score for one query at a time, with wrong items first among equal scores."""
    first, precision, trapezoids, penalty = [], [], [], []
    for query, instance in zip(queries, of_queries, strict=True):
        scores = gallery @ query
        right = of_gallery == instance
        order = np.lexsort((right, -scores))
        ranks = np.flatnonzero(right[order]) + 1
        first.append(ranks[0])
        precision.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
        before = np.arange(len(ranks)) / np.maximum(ranks - 1, 1)
        before[ranks == 1] = 1  # the curve starts at a precision of 1
        trapezoids.append((precision[-1] + np.mean(before)) / 2)
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
        "map_trapezoidal": 100 * np.mean(trapezoids),
    }


def embeddings(kind, images, generator):
    """Small whole numbers, whose products are exact, so that ties are ties in both."""
    counts = generator.integers(3, 8, size=images)  # different numbers of captions
    of_images, of_texts = np.arange(images), np.repeat(np.arange(images), counts)
    top = {"random": 9, "ties": 2, "duplicates": 9}[kind]
    image_vectors = generator.integers(-top, top, size=(images, 4)).astype(np.float32)
    if kind == "duplicates":
        image_vectors[::2] = image_vectors[0]
    noise = generator.integers(-1, 2, size=(len(of_texts), 4))
    return image_vectors, (image_vectors[of_texts] + noise).astype(np.float32), of_images, of_texts


def assert_metrics(found, expected):
    assert asdict(found).keys() == expected.keys()
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-12, abs=1e-12), name


def sum_of_recalls(result):
    directions = (result.image_to_text, result.text_to_image)
    return sum(m.recall_at_1 + m.recall_at_5 + m.recall_at_10 for m in directions)


def test_both_directions_with_unequal_numbers_of_captions():
    images = np.eye(3, dtype=np.float32)
    texts = np.eye(3, dtype=np.float32)[[0, 0, 1, 2, 0]]
    found = evaluate_all(images, texts, np.arange(3), np.array([0, 0, 1, 2, 2]))
    # Caption 4, of image 2, lies on image 0: there it comes before that one's own two
    # captions, and from image 2 it is tied, so last, with the three of others.
    by_image = [(1 / 2 + 2 / 3) / 2, 1, (1 + 2 / 5) / 2]
    assert found.image_to_text.recall_at_1 == pytest.approx(100 * 2 / 3)
    assert found.image_to_text.map == pytest.approx(100 * sum(by_image) / 3)
    assert found.text_to_image.recall_at_1 == 80
    assert found.text_to_image.mean_rank == pytest.approx((1 + 1 + 1 + 1 + 3) / 5)
    assert found.rsum == pytest.approx(200 / 3 + 100 + 100 + 80 + 100 + 100)
    assert (found.images, found.captions, found.protocol) == (3, 5, "all")


@pytest.mark.parametrize("kind", ["random", "ties", "duplicates"])
def test_flickr_1k_compares_1000_images_with_all_their_captions(kind):
    images, texts, a, b = embeddings(kind, 1000, np.random.default_rng(1))
    found = evaluate_flickr_1k(images, texts, a, b)
    assert_metrics(found.image_to_text, reference(images, texts, a, b))
    assert_metrics(found.text_to_image, reference(texts, images, b, a))
    assert found.rsum == pytest.approx(sum_of_recalls(found))
    assert (found.images, found.captions, found.protocol) == (1000, len(texts), "flickr-1k")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["random", "ties", "duplicates"])
def test_coco_1k_is_the_mean_of_five_consecutive_folds(kind):
    images, texts, a, b = embeddings(kind, 5000, np.random.default_rng(2))
    found = evaluate_coco_1k(images, texts, a, b)
    image_to_text, text_to_image = [], []
    for start in range(0, 5000, 1000):
        fold, of_fold = slice(start, start + 1000), (b >= start) & (b < start + 1000)
        one, other = (images[fold], a[fold]), (texts[of_fold], b[of_fold])
        image_to_text.append(reference(one[0], other[0], one[1], other[1]))
        text_to_image.append(reference(other[0], one[0], other[1], one[1]))
    for direction, folds in (
        (found.image_to_text, image_to_text),
        (found.text_to_image, text_to_image),
    ):
        assert_metrics(direction, {k: np.mean([fold[k] for fold in folds]) for k in folds[0]})
    assert found.rsum == pytest.approx(sum_of_recalls(found))
    assert (found.images, found.captions, found.protocol) == (5000, len(texts), "coco-1k")


def test_coco_1k_refuses_images_of_one_instance_in_two_folds():
    vectors = np.ones((5000, 2), np.float32)
    instances = np.arange(5000)
    instances[4000] = 0
    with pytest.raises(ProtocolError, match="one instance are in different folds"):
        evaluate_coco_1k(vectors, vectors, instances, instances)


@pytest.mark.slow
def test_coco_5k_compares_all_5000_images_with_all_captions():
    images, texts, a, b = embeddings("random", 5000, np.random.default_rng(3))
    found = evaluate_coco_5k(images, texts, a, b)
    ranks = rank_relevant(texts, images, b, a)
    assert found.text_to_image == retrieval_metrics(ranks)
    assert found.image_to_text == retrieval_metrics(rank_relevant(images, texts, a, b))
    assert (found.images, found.captions, found.protocol) == (5000, len(texts), "coco-5k")
    some = np.arange(0, len(texts), 97)
    expected = [reference(texts[[i]], images, b[[i]], a)["mean_rank"] for i in some]
    assert ranks.first[some].tolist() == expected


@pytest.mark.parametrize("kind", ["random", "ties", "duplicates"])
def test_person_counts_every_image_of_the_identity(kind):
    generator = np.random.default_rng(4)
    images, texts, a, b = embeddings(kind, 300, generator)
    people = generator.integers(0, 60, size=300)
    found = evaluate_person(images, texts, people[a], people[b])
    assert_metrics(found.text_to_image, reference(texts, images, people[b], people[a]))
    assert found.image_to_text is None
    assert found.rsum is None
    assert found.identities == len(np.unique(people))


def test_inverse_penalty_by_hand():
    # The right images of the one query are at ranks 1 and 4 of four: 2 / 4.
    images = np.array([[4.0], [3.0], [2.0], [1.0]], np.float32)
    query = np.ones((1, 1), np.float32)
    found = evaluate_person(images, query, np.array([0, 1, 2, 0]), np.array([0]))
    assert found.text_to_image.minp == 50
    assert found.text_to_image.map == pytest.approx(100 * (1 + 2 / 4) / 2)


@pytest.mark.parametrize(
    ("name", "images", "message"),
    [
        ("flickr-1k", 999, "needs 1,000 images, and the split has 999"),
        ("coco-1k", 1000, "needs 5,000 images"),
        ("coco-5k", 5001, "the split has 5,001"),
    ],
)
def test_a_split_of_another_size_is_refused(name, images, message):
    vectors, ids = np.ones((images, 2), np.float32), np.arange(images)
    with pytest.raises(ProtocolError, match=message):
        find_protocol(name)(vectors, vectors, ids, ids)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols_are_found_by_name(name):
    assert find_protocol(name) is PROTOCOLS[name]


def test_an_unknown_protocol_is_answered_with_the_known_ones():
    with pytest.raises(ProtocolError, match="'coco' does not exist; choose one of all, flickr-1k"):
        find_protocol("coco")


@pytest.mark.parametrize("measure", [evaluate_all, evaluate_person])
def test_a_result_is_read_back_from_its_dictionary(measure):
    eye = np.eye(3, dtype=np.float32)
    result = measure(eye, eye, np.arange(3), np.arange(3))
    values = result.to_dict()
    assert None not in values.values()
    assert EvaluationResult.from_dict(values) == result
    # The metrics of a bundle hold further keys.
    assert EvaluationResult.from_dict({**values, "calibration": {}, "stage": "one"}) == result
