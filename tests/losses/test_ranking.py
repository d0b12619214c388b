import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dualpath.losses.ranking import mined_ranking_loss, ranking_loss
from tests.losses.batches import CAPTIONS, IMAGES, ONE_EACH, random_batch


def by_hand(margin, reduce):
    own = [0.8, 1.0, 0.6]
    other_captions = [[0.0, 1.0], [0.6, 0.0], [0.96, 0.8]]
    other_images = [[0.6, 0.96], [0.0, 0.8], [1.0, 0.0]]
    total = 0.0
    for positive, captions, images in zip(own, other_captions, other_images, strict=True):
        for others in (captions, images):
            total += reduce([max(0.0, margin - positive + other) for other in others])
    return total / 3


@pytest.mark.parametrize(
    ("negatives", "reduce"), [("hardest", max), ("all", lambda costs: sum(costs) / len(costs))]
)
@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_values_by_hand(negatives, reduce, margin):
    loss = ranking_loss(IMAGES, CAPTIONS, ONE_EACH, ONE_EACH, margin=margin, negatives=negatives)
    assert loss.item() == pytest.approx(by_hand(margin, reduce), rel=1e-9)


def test_random_negatives_are_drawn_uniformly_from_the_others():
    torch.manual_seed(0)
    drawn = [
        ranking_loss(IMAGES, CAPTIONS, ONE_EACH, ONE_EACH, negatives="random").item()
        for _ in range(3000)
    ]
    expected = by_hand(1.0, lambda costs: sum(costs) / len(costs))
    assert sum(drawn) / len(drawn) == pytest.approx(expected, abs=0.02)
    assert len({round(value, 6) for value in drawn}) > 20


@given(seed=st.integers(0, 10_000))
def test_the_hardest_negative_costs_at_least_as_much_as_all_and_random(seed):
    batch = random_batch(seed)
    hardest = ranking_loss(*batch, negatives="hardest")
    assert hardest >= ranking_loss(*batch, negatives="all") - 1e-12
    assert hardest >= ranking_loss(*batch, negatives="random") - 1e-12


def test_a_perfect_batch_costs_nothing():
    eye = torch.eye(4)
    ids = torch.arange(4)
    assert ranking_loss(eye, eye, ids, ids, margin=0.9, negatives="all").item() == 0


def test_mined_ranking_loss_by_hand():
    images, texts = torch.eye(2), torch.eye(2)
    mined = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    loss = mined_ranking_loss(images, texts, mined, torch.arange(2), torch.arange(2), margin=0.5)
    # Captions: 0.5 - 1 + 0.7071 and 0; images: the only other one has the cosine 0.
    assert loss.item() == pytest.approx((0.5 - 1 + 0.5**0.5) / 2)
