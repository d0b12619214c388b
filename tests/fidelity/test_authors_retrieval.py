"""Test features, mining, single losses and retrieval figures equal the authors' own code."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dualpath.evaluation.metrics import rank_relevant, retrieval_metrics
from dualpath.losses.instance import instance_loss
from dualpath.losses.ranking import mined_ranking_loss
from dualpath.training.mining import most_similar
from tests.fidelity.case import GOLDEN, TOLERANCE, assert_golden, load_case
from tests.fidelity.formulas import BATCHES, uniform


@pytest.fixture(scope="module")
def case():
    loaded = load_case("flickr30k_32")
    loaded.start()
    loaded.network.eval()
    return loaded


@pytest.mark.slow
def test_a_caption_is_the_sum_of_its_features_at_all_positions(case):
    golden = case.golden["test_text_features"]
    captions = case.inputs(0).token_ids[golden["rows_of_batch_0"]]
    vectors = case.network.embed_texts(captions)
    assert_golden("test features of captions", golden["unit_sum_of_placements"], vectors)


class Maps(nn.Module):
    """A backbone whose last feature maps are given, one for each call."""

    def __init__(self, *maps):
        super().__init__()
        self._maps = list(maps)

    def forward_features(self, _):
        return self._maps.pop(0)


@pytest.mark.slow
def test_an_image_is_the_sum_over_positions_and_mirrored_views(case, monkeypatch):
    golden = case.golden["test_picture_features"]
    maps = torch.from_numpy(2 * uniform((2, 2048, 8, 8), 8004))
    encoder = case.network.image_encoder
    assert encoder.window == 7
    monkeypatch.setitem(encoder._modules, "backbone", Maps(maps, maps.flip(3)))
    pixels = torch.zeros(2, 3, 256, 256, dtype=torch.uint8)
    vectors = case.network.embed_sliding(pixels, pixels)
    assert_golden("test features of images", golden["unit_sum"], vectors)


@pytest.mark.slow
def test_mining_chooses_the_captions_that_the_authors_chose(case):
    golden = case.golden["mining"]
    batches = [case.inputs(number) for number in range(BATCHES)]
    with torch.no_grad():
        images = case.network.image_encoder(batches[0].pooled)
        texts = case.network.text_encoder(torch.cat([case.placed(batch) for batch in batches]))
    chosen = most_similar(images, texts, relu=True)
    assert chosen.tolist() == golden["chosen"]
    scores = F.cosine_similarity(F.relu(images), F.relu(texts[chosen]))
    for score, expected in zip(scores, golden["scores"], strict=True):
        assert_golden("cosines of mined captions", expected, score)
    before_relu = most_similar(images, texts)
    assert (before_relu != chosen).sum() == 5  # the order of ReLU and cosine matters


def ranking_gradients(images, texts, anchors, margin):
    """Return the gradients of twice the authors' ranking loss with respect to unit vectors."""
    of_images, of_texts = np.zeros_like(images), np.zeros_like(texts)
    for p in range(anchors):
        n = p + anchors
        positive = images[p] @ texts[p]
        if margin - positive + images[p] @ texts[n] > 0:
            of_images[p] += texts[n] - texts[p]
            of_texts[p] -= images[p]
            of_texts[n] += images[p]
        if margin - positive + texts[p] @ images[n] > 0:
            of_texts[p] += images[n] - images[p]
            of_images[p] -= texts[p]
            of_images[n] += texts[p]
    return 2 * of_images, 2 * of_texts


def unit(array):
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def test_the_ranking_loss_and_its_gradients():
    golden, anchors = GOLDEN["rank_loss_alone"], 8
    images, texts = (unit(uniform((16, 2048), seed) - 0.3) for seed in (8001, 8002))
    texts[:3] = unit(0.7 * images[:3] + 0.3 * texts[:3])
    # The authors' gradient is of the cosine of vectors that are already of unit length.
    full = ranking_gradients(images, texts, anchors, golden["margin"])
    assert_golden("ranking loss alone", golden["dX_of_2_sum"], full[0])
    assert_golden("ranking loss alone", golden["dY_of_2_sum"], full[1])
    x, y = (torch.from_numpy(one).requires_grad_() for one in (images, texts))
    losses = [
        mined_ranking_loss(
            x[[p, p + anchors]],
            y[[p]],
            y[[p + anchors] * 2],
            owners=torch.tensor([0]),
            instance_ids=torch.arange(2),
            margin=golden["margin"],
        )
        for p in range(anchors)
    ]
    total = torch.stack(losses).sum()
    assert_golden("ranking loss alone", golden["sum"], total.detach())
    (golden["weight"] * total).backward()
    for vectors, gradient, found in ((images, full[0], x.grad), (texts, full[1], y.grad)):
        # DualPath normalises within the loss, so its gradient is the part along the sphere.
        tangent = gradient - (gradient * vectors).sum(axis=1, keepdims=True) * vectors
        assert found.numpy() == pytest.approx(tangent, abs=1e-12)


def test_rows_without_a_label_add_nothing_to_the_sum_over_the_whole_batch():
    golden = GOLDEN["softmaxlog_label_0"]
    scores = torch.from_numpy(6 * uniform((8, 40), 8003) - 3).requires_grad_()
    labels = torch.tensor(golden["labels_from_1"]) - 1
    loss = instance_loss(scores, torch.eye(40, dtype=torch.float64), labels)
    loss.backward()
    assert_golden("instance loss with unlabelled rows", golden["sum"], 8 * loss.detach())
    assert_golden("instance loss with unlabelled rows", golden["gradient"], 8 * scores.grad)


def authors_precision(is_right):
    """Return the average precision of a ranked list by the authors' loop (``compute_AP``)."""
    good, area, old_recall, old_precision, found = sum(is_right), 0.0, 0.0, 1.0, 0
    for place, right in enumerate(is_right, start=1):
        found += right
        recall, precision = found / good, found / place
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return area


def authors_metrics(scores, is_right):
    """Return R@1, R@5, R@10 in percent, the median rank and the mean average precision.

    Args:
        scores: (queries, items) without ties. is_right: (queries, items) bool.
    """
    ordered = np.take_along_axis(is_right, np.argsort(-scores, axis=1), axis=1)
    curve = (np.cumsum(ordered, axis=1) > 0).mean(axis=0)  # cumulative match characteristic
    precision = np.mean([authors_precision(row) for row in ordered])
    recalls = [100 * curve[k - 1] for k in (1, 5, 10)]
    return [*recalls, int(np.argmax(curve > 0.5)) + 1, 100 * precision]


@pytest.mark.parametrize(("queries", "items", "classes"), [(60, 300, 60), (300, 60, 60)])
def test_recalls_median_rank_and_both_average_precisions(queries, items, classes):
    generator = np.random.default_rng(queries)
    centres = generator.normal(size=(classes, 16))
    labels = [np.arange(n) % classes for n in (queries, items)]
    a, b = (
        (centres[own] + 1.5 * generator.normal(size=(len(own), 16))).astype(np.float32)
        for own in labels
    )
    metrics = retrieval_metrics(rank_relevant(a, b, *labels))
    found = [metrics.recall_at_1, metrics.recall_at_5, metrics.recall_at_10]
    found += [metrics.median_rank, metrics.map_trapezoidal]
    is_right = labels[0][:, None] == labels[1]
    assert found == pytest.approx(authors_metrics(a @ b.T, is_right), rel=TOLERANCE)
    assert metrics.map != pytest.approx(metrics.map_trapezoidal, rel=1e-3)
