import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dualpath.evaluation.metrics import rank_relevant, recall_at_k, retrieval_metrics
from dualpath.evaluation.protocols import evaluate_all


def slow_ranks(scores, query_instances, gallery_instances):
    """From the definitions, one query at a time: sort, with wrong items first among equals."""
    first, average_precision = [], []
    for row, instance in zip(scores, query_instances, strict=True):
        items = [
            (-score, other == instance) for score, other in zip(row, gallery_instances, strict=True)
        ]
        right = [rank for rank, (_, is_right) in enumerate(sorted(items), start=1) if is_right]
        first.append(right[0])
        average_precision.append(np.mean([(i + 1) / rank for i, rank in enumerate(right)]))
    return first, average_precision


@settings(max_examples=200)
@given(st.data())
def test_ranks_equal_the_definition_with_ties_and_unequal_numbers_of_right_items(data):
    instances = data.draw(st.integers(1, 4))
    gallery = list(range(instances))
    gallery += data.draw(st.lists(st.integers(0, instances - 1), max_size=6))
    queries = data.draw(st.lists(st.integers(0, instances - 1), min_size=1, max_size=6))
    small = st.integers(-2, 2)  # few values, so that there are ties

    def make(rows):
        return data.draw(
            st.lists(st.lists(small, min_size=2, max_size=2), min_size=rows, max_size=rows)
        )

    a, b = torch.tensor(make(len(queries))).float(), torch.tensor(make(len(gallery))).float()
    ranks = rank_relevant(a, b, torch.tensor(queries), torch.tensor(gallery))
    first, average_precision = slow_ranks((a @ b.T).tolist(), queries, gallery)
    assert ranks.first.tolist() == first
    assert ranks.average_precision == pytest.approx(average_precision, rel=1e-12)


def test_chunks_change_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(40, 8, generator=generator), torch.randn(60, 8, generator=generator)
    ids_a, ids_b = torch.arange(40) % 20, torch.arange(60) % 20
    whole = rank_relevant(a, b, ids_a, ids_b)
    monkeypatch.setattr("dualpath.evaluation.metrics._CHUNK_SCORES", 60 * 7)
    parts = rank_relevant(a, b, ids_a, ids_b)
    assert whole.first.tolist() == parts.first.tolist()
    assert whole.average_precision.tolist() == parts.average_precision.tolist()


def test_a_model_that_gives_everything_one_score_gets_the_worst_rank():
    ones = torch.ones(5, 3)
    ranks = rank_relevant(ones, ones, torch.arange(5), torch.arange(5))
    assert ranks.first.tolist() == [5] * 5


def test_summaries_by_hand():
    ranks = rank_relevant(
        torch.eye(4), torch.eye(4)[[0, 1, 3, 2]], torch.arange(4), torch.tensor([0, 1, 2, 3])
    )
    # Two queries find their item first; the others have it among the ties at zero, last.
    assert ranks.first.tolist() == [1, 1, 4, 4]
    metrics = retrieval_metrics(ranks)
    assert metrics.recall_at_1 == 50
    assert metrics.recall_at_5 == 100
    assert metrics.median_rank == 4  # within 1 lies half of them, not more
    assert metrics.mean_rank == 2.5
    assert metrics.map == pytest.approx(100 * (1 + 1 + 0.25 + 0.25) / 4)


def test_recall_counts_ranks_up_to_k():
    assert recall_at_k(np.array([1, 2, 5, 6, 11]), 5) == 60.0


@pytest.mark.parametrize(
    ("queries", "gallery", "of_gallery", "message"),
    [
        (torch.ones(2, 3), torch.ones(2, 4), torch.arange(2), "3 numbers, the gallery 4"),
        (torch.ones(2, 3) * torch.nan, torch.ones(2, 3), torch.arange(2), "NaN"),
        (torch.ones(2, 3), torch.ones(2, 3), torch.tensor([0, 7]), "query 1 has no right item"),
    ],
)
def test_what_cannot_be_measured_is_refused(queries, gallery, of_gallery, message):
    with pytest.raises(ValueError, match=message):
        rank_relevant(queries, gallery, torch.arange(2), of_gallery)


def test_both_directions_with_unequal_captions():
    images = np.eye(3, dtype=np.float32)
    texts = np.eye(3, dtype=np.float32)[[0, 0, 1, 2, 0]]
    found = evaluate_all(images, texts, np.arange(3), np.array([0, 0, 1, 2, 2]))
    # Caption 4, of image 2, lies on image 0: there it comes before that one's own two
    # captions, and from image 2 it is tied, so last, with the three of others.
    by_image = [(1 / 2 + 2 / 3) / 2, 1, (1 + 2 / 5) / 2]
    assert found["image_to_text"]["recall_at_1"] == pytest.approx(100 * 2 / 3)
    assert found["image_to_text"]["map"] == pytest.approx(100 * sum(by_image) / 3)
    assert found["text_to_image"]["recall_at_1"] == 80
    assert found["text_to_image"]["mean_rank"] == pytest.approx((1 + 1 + 1 + 1 + 3) / 5)
    assert found["rsum"] == pytest.approx(200 / 3 + 100 + 100 + 80 + 100 + 100)
    assert (found["images"], found["captions"], found["protocol"]) == (3, 5, "all")
