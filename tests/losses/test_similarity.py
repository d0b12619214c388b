"""What all losses over the pairs of a batch have in common."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dualpath.losses.contrastive import contrastive_loss
from dualpath.losses.ranking import ranking_loss
from dualpath.losses.similarity import batch_similarity
from tests.losses.batches import random_batch


def ranking_with_hardest(*batch):
    return ranking_loss(*batch, margin=0.5, negatives="hardest")


def ranking_with_all(*batch):
    return ranking_loss(*batch, margin=0.5, negatives="all")


def ranking_with_random(*batch):
    return ranking_loss(*batch, negatives="random")


def contrastive(*batch):
    return contrastive_loss(*batch, temperature=0.2)


LOSSES = [ranking_with_hardest, ranking_with_all, contrastive]


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_agree_with_finite_differences(loss):
    images, captions, owners, instances = random_batch(3, same_instance=True)
    images.requires_grad_()
    captions.requires_grad_()
    assert torch.autograd.gradcheck(lambda p, c: loss(p, c, owners, instances), (images, captions))


@pytest.mark.parametrize("loss", LOSSES)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_a_batch_does_not_change_the_loss(loss, seed):
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
def test_the_length_of_features_does_not_change_the_loss(loss, seed, factor):
    images, captions, owners, instances = random_batch(seed)
    torch.testing.assert_close(
        loss(images, captions, owners, instances),
        loss(images * factor, captions / factor, owners, instances),
    )


@pytest.mark.parametrize("loss", [*LOSSES, ranking_with_random])
def test_members_of_one_instance_are_never_negatives(loss):
    images, captions, owners, _ = random_batch(1)
    same = torch.zeros(4, dtype=torch.int64)
    assert loss(images, captions, owners, same).item() == pytest.approx(0.0, abs=1e-12)
    # Image 2 belongs to the instance of image 0, so its embedding does not matter to caption 0.
    only_first = loss(images[[0, 2]], captions[:1], torch.tensor([0]), torch.tensor([0, 0]))
    assert only_first.item() == pytest.approx(0.0, abs=1e-12)
    # With members of other instances the batch costs something, wherever image 2 is.
    moved = images.clone()
    moved[2] = captions[0]
    for embedded in (images, moved):
        torch.manual_seed(0)
        cost = loss(embedded, captions[:3], torch.tensor([0, 1, 3]), torch.tensor([0, 1, 0, 2]))
        assert cost.item() > 0


def test_negatives_are_the_members_of_other_instances():
    images, captions, owners, instances = random_batch(2, same_instance=True)
    similarity = batch_similarity(images, captions, owners, instances)
    for caption, owner in enumerate(owners):
        own = instances[owner]
        assert similarity.negative_images[caption].tolist() == (instances != own).tolist()
        of_captions = instances[owners]
        assert similarity.negative_captions[caption].tolist() == (of_captions != own).tolist()


def test_cosines_are_those_of_each_caption_and_of_its_image():
    images, captions, owners, instances = random_batch(4)
    similarity = batch_similarity(images, captions, owners, instances)
    cosines = torch.cosine_similarity(captions[:, None], images[None], dim=2)
    torch.testing.assert_close(similarity.images, cosines)
    torch.testing.assert_close(similarity.positive, cosines[torch.arange(7), owners])
    torch.testing.assert_close(similarity.captions, cosines.T[owners])
