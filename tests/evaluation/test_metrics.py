import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualpath.errors import MetricError
from dualpath.evaluation.metrics import (
    Ranks,
    RetrievalMetrics,
    rank_relevant,
    recall_at_k,
    retrieval_metrics,
)


def ranks_by_sorting(queries, gallery, query_instances, gallery_instances):
    """Rank by the definitions, one query at a time, with wrong items first among equal scores."""
    first, average_precision, inverse_penalty = [], [], []
    for query, instance in zip(queries, query_instances, strict=True):
        scores = gallery @ query
        right = gallery_instances == instance
        # A stable sort by "is right", then a stable sort by score.
        order = np.argsort(right, kind="stable")
        order = order[np.argsort(-scores[order], kind="stable")]
        ranks = np.flatnonzero(right[order]) + 1
        first.append(ranks[0])
        average_precision.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
        inverse_penalty.append(len(ranks) / ranks[-1])
    return Ranks(np.array(first), np.array(average_precision), np.array(inverse_penalty))


def assert_same(found, expected):
    assert found.first.tolist() == expected.first.tolist()
    assert found.average_precision == pytest.approx(expected.average_precision, rel=1e-12)
    assert found.inverse_penalty == pytest.approx(expected.inverse_penalty, rel=1e-12)


@settings(max_examples=200)
@given(st.data())
def test_ranks_equal_the_definition_with_ties_and_unequal_numbers_of_right_items(data):
    instances = data.draw(st.integers(1, 4))
    gallery = list(range(instances))
    gallery += data.draw(st.lists(st.integers(0, instances - 1), max_size=6))
    queries = data.draw(st.lists(st.integers(0, instances - 1), min_size=1, max_size=6))
    small = st.integers(-2, 2)  # few values, so that there are ties

    def draw_vectors(rows):
        row = st.lists(small, min_size=2, max_size=2)
        return np.array(data.draw(st.lists(row, min_size=rows, max_size=rows)), np.float32)

    arguments = draw_vectors(len(queries)), draw_vectors(len(gallery))
    arguments += np.array(queries), np.array(gallery)
    assert_same(rank_relevant(*arguments), ranks_by_sorting(*arguments))


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 80),
    extra=st.integers(0, 150),
    instances=st.integers(1, 30),
    levels=st.sampled_from([1, 2, 5, 1000]),  # different values of a number: from all equal to few
    chunk=st.sampled_from([1, 200, 1 << 22]),  # scores held at once
)
def test_ranks_of_larger_random_cases_equal_those_of_argsort(
    seed, queries, extra, instances, levels, chunk
):
    generator = np.random.default_rng(seed)

    def draw_vectors(rows):
        # Whole numbers, whose products are exact in float32, so that ties are ties in both.
        return generator.integers(-levels // 2, levels // 2 + 1, (rows, 3)).astype(np.float32)

    gallery_instances = np.concatenate(
        [np.arange(instances), generator.integers(0, instances, extra)]
    )
    generator.shuffle(gallery_instances)
    arguments = draw_vectors(queries), draw_vectors(len(gallery_instances))
    arguments += generator.integers(0, instances, queries), gallery_instances
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dualpath.evaluation.metrics._CHUNK_SCORES", chunk)
        assert_same(rank_relevant(*arguments), ranks_by_sorting(*arguments))


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 1), st.floats(0, 1)), min_size=1))
def test_summaries_equal_the_definition(rows):
    first, precision, penalty = (np.array(column) for column in zip(*rows, strict=True))
    metrics = retrieval_metrics(Ranks(first, precision, penalty))
    within = [np.mean(first <= k) for k in range(51)]
    expected = RetrievalMetrics(
        recall_at_1=100 * within[1],
        recall_at_5=100 * within[5],
        recall_at_10=100 * within[10],
        median_rank=next(k for k, share in enumerate(within) if share > 0.5),
        mean_rank=np.mean(first),
        map=100 * np.mean(precision),
        minp=100 * np.mean(penalty),
    )
    assert metrics == expected


def test_the_size_of_chunks_does_not_change_the_ranks(monkeypatch):
    generator = np.random.default_rng(0)
    a, b = (generator.normal(size=(n, 8)).astype(np.float32) for n in (40, 60))
    ids_a, ids_b = np.arange(40) % 20, np.arange(60) % 20
    whole = rank_relevant(a, b, ids_a, ids_b)
    monkeypatch.setattr("dualpath.evaluation.metrics._CHUNK_SCORES", 60 * 7)
    chunked = rank_relevant(a, b, ids_a, ids_b)
    assert whole.first.tolist() == chunked.first.tolist()
    assert whole.average_precision.tolist() == chunked.average_precision.tolist()
    assert whole.inverse_penalty.tolist() == chunked.inverse_penalty.tolist()


def test_a_model_that_gives_everything_one_score_gets_the_worst_rank():
    ones = np.ones((5, 3), np.float32)
    ranks = rank_relevant(ones, ones, np.arange(5), np.arange(5))
    assert ranks.first.tolist() == [5] * 5


def test_summaries_by_hand():
    eye = np.eye(4, dtype=np.float32)
    ranks = rank_relevant(eye, eye[[0, 1, 3, 2]], np.arange(4), np.arange(4))
    # Two queries find their item first; the others have it among the ties at zero, last.
    assert ranks.first.tolist() == [1, 1, 4, 4]
    metrics = retrieval_metrics(ranks)
    assert metrics.recall_at_1 == 50
    assert metrics.recall_at_5 == 100
    assert metrics.median_rank == 4  # within 1 lies half of them, not more
    assert metrics.mean_rank == 2.5
    assert metrics.map == pytest.approx(100 * (1 + 1 + 0.25 + 0.25) / 4)
    # Before the right item in place 4 lies none: a precision of 0.
    assert metrics.map_trapezoidal == pytest.approx(100 * (1 + 1 + 0.125 + 0.125) / 4)


def test_recall_counts_ranks_up_to_k():
    assert recall_at_k(np.array([1, 2, 5, 6, 11]), 5) == 60.0


ONES = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("queries", "gallery", "of_gallery", "message"),
    [
        (ONES, np.ones((2, 4), np.float32), [0, 1], "3 dimensions, the gallery 4"),
        (ONES * np.nan, ONES, [0, 1], "NaN"),
        (ONES, ONES * np.inf, [0, 1], "NaN or infinity"),
        (ONES, ONES, [0, 7], "query 1 has no right item"),
    ],
)
def test_vectors_that_cannot_be_ranked_are_refused(queries, gallery, of_gallery, message):
    with pytest.raises(MetricError, match=message):
        rank_relevant(queries, gallery, np.arange(2), np.array(of_gallery))
