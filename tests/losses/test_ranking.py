import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dualpath.losses.ranking import contrastive_loss, ranking_loss

IMAGES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], dtype=torch.float64)
CAPTIONS = torch.tensor([[0.8, 0.6], [0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
# cosines, captions by images: (0.8, 0.6, 0.96), (0, 1, 0.8), (1, 0, 0.6)
ONE_EACH = torch.arange(3)


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


def test_random_negatives_are_each_of_the_others_in_turn():
    torch.manual_seed(0)
    drawn = [
        ranking_loss(IMAGES, CAPTIONS, ONE_EACH, ONE_EACH, negatives="random").item()
        for _ in range(3000)
    ]
    expected = by_hand(1.0, lambda costs: sum(costs) / len(costs))
    assert sum(drawn) / len(drawn) == pytest.approx(expected, abs=0.02)
    assert len({round(value, 6) for value in drawn}) > 20


def test_contrastive_loss_by_hand():
    loss = contrastive_loss(IMAGES, CAPTIONS, ONE_EACH, ONE_EACH, temperature=0.5)
    cosines = CAPTIONS @ IMAGES.T / 0.5
    expected = 0.0
    for i in range(3):
        expected += math.log(sum(math.exp(v) for v in cosines[i])) - cosines[i, i]
        expected += math.log(sum(math.exp(v) for v in cosines[:, i])) - cosines[i, i]
    assert loss.item() == pytest.approx(float(expected) / 6, rel=1e-9)


LOSSES = [
    lambda *a: ranking_loss(*a, margin=0.5, negatives="hardest"),
    lambda *a: ranking_loss(*a, margin=0.5, negatives="all"),
    lambda *a: contrastive_loss(*a, temperature=0.2),
]


def random_batch(seed, *, same_instance=False):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    captions = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    owners = torch.cat([torch.arange(4), torch.randint(4, (3,), generator=generator)])
    instances = torch.tensor([0, 1, 0, 2]) if same_instance else torch.arange(4)
    return images, captions, owners, instances


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_agree_with_finite_differences(loss):
    images, captions, owners, instances = random_batch(3, same_instance=True)
    images.requires_grad_()
    captions.requires_grad_()
    assert torch.autograd.gradcheck(lambda p, c: loss(p, c, owners, instances), (images, captions))


@pytest.mark.parametrize("loss", LOSSES)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_a_batch_changes_nothing(loss, seed):
    images, captions, owners, instances = random_batch(seed, same_instance=True)
    generator = torch.Generator().manual_seed(seed)
    places, order = torch.randperm(4, generator=generator), torch.randperm(7, generator=generator)
    moved = torch.argsort(places)
    torch.testing.assert_close(
        loss(images, captions, owners, instances),
        loss(images[places], captions[order], moved[owners[order]], instances[places]),
    )


@pytest.mark.parametrize("loss", LOSSES)
@given(seed=st.integers(0, 10_000), factor=st.floats(0.1, 50.0))
def test_only_directions_matter(loss, seed, factor):
    images, captions, owners, instances = random_batch(seed)
    torch.testing.assert_close(
        loss(images, captions, owners, instances),
        loss(images * factor, captions / factor, owners, instances),
    )


@pytest.mark.parametrize("loss", [*LOSSES, lambda *a: ranking_loss(*a, negatives="random")])
def test_members_of_one_instance_are_never_negatives(loss):
    images, captions, owners, _ = random_batch(1)
    same = torch.zeros(4, dtype=torch.int64)
    assert loss(images, captions, owners, same).item() == pytest.approx(0.0, abs=1e-12)
    # Image 2 is of the instance of image 0: where it lies does not matter to caption 0.
    instances = torch.tensor([0, 1, 0, 2])
    owners = torch.tensor([0, 1, 3])
    moved = images.clone()
    moved[2] = captions[0]
    torch.manual_seed(0)
    before = loss(images, captions[:3], owners, instances)
    for i in (1, 3):  # but it is a negative of the others, unless it is far from them too
        assert instances[i] != instances[2]
    only_first = loss(images[[0, 2]], captions[:1], torch.tensor([0]), torch.tensor([0, 0]))
    assert only_first.item() == pytest.approx(0.0, abs=1e-12)
    assert before.item() > 0


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
