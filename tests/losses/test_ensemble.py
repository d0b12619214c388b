import pytest
import torch

from dualpath.losses.contrastive import contrastive_loss
from dualpath.losses.ensemble import mean_over_heads
from dualpath.losses.instance import InstanceClassifier, instance_loss
from dualpath.recipes.stages import ContrastiveLossRecipe, StageRecipe
from dualpath.training.objective import stage_losses

OWNERS, IDS = torch.tensor([0, 1, 1]), torch.tensor([4, 2])


def features():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 6, generator=generator), torch.randn(3, 6, generator=generator)


def test_the_mean_over_heads_by_hand():
    # 1 + 2 and 3 + 4, times 10 and 20
    row, factor = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[10.0, 20.0]])
    assert mean_over_heads(lambda x, f: (x * f).sum(), 2, row, factor).item() == (30 + 140) / 2
    assert mean_over_heads(torch.sum, 1, row).item() == 10


@pytest.mark.parametrize("sample_rate", [1.0, 0.99999])  # the second draws a sample of all classes
def test_every_head_classifies_by_itself(sample_rate):
    classifier = InstanceClassifier(6, torch.arange(5), num_heads=3, sample_rate=sample_rate)
    images, texts = features()
    losses = classifier(images, texts, IDS, IDS[OWNERS], logit_scale=8.0)
    for loss, seen, ids in zip(losses, (images, texts), (IDS, IDS[OWNERS]), strict=True):
        apart = [
            instance_loss(seen[:, k : k + 2], classifier.weight[:, k : k + 2], ids, logit_scale=8.0)
            for k in (0, 2, 4)
        ]
        torch.testing.assert_close(loss, torch.stack(apart).mean())


def test_the_gradient_of_a_head_does_not_depend_on_the_others():
    images, texts = (one.requires_grad_() for one in features())
    stage = StageRecipe(name="a", epochs=1, contrastive=ContrastiveLossRecipe())
    (loss,) = stage_losses(stage, None, images, texts, OWNERS, IDS, num_heads=2).values()
    (gradient,) = torch.autograd.grad(loss, images)
    alone = contrastive_loss(images[:, :3], texts[:, :3], OWNERS, IDS) / 2
    (expected,) = torch.autograd.grad(alone, images)
    torch.testing.assert_close(gradient[:, :3], expected[:, :3])
    assert (expected[:, 3:] == 0).all()
