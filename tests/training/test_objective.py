import pytest
import torch

from dualpath.losses.contrastive import contrastive_loss
from dualpath.losses.instance import InstanceClassifier, instance_loss
from dualpath.losses.ranking import mined_ranking_loss, ranking_loss
from dualpath.recipes.stages import StageRecipe
from dualpath.training.objective import MinedCaptions, stage_losses

OWNERS, IDS = torch.tensor([0, 1, 1]), torch.tensor([4, 2])


def stage(**losses):
    return StageRecipe.model_validate({"name": "one", "epochs": 1, **losses})


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 6, generator=generator), torch.randn(3, 6, generator=generator)


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return InstanceClassifier(6, torch.arange(5))


def test_each_loss_has_the_weight_and_the_options_of_the_stage(features, classifier):
    images, texts = features
    recipe = stage(
        instance={"image_weight": 0.5, "text_weight": 2.0, "logit_scale": 8.0},
        ranking={"weight": 3.0, "margin": 0.2, "negatives": "hardest"},
        contrastive={"weight": 4.0, "temperature": 0.1},
    )
    losses = stage_losses(recipe, classifier, images, texts, OWNERS, IDS)
    batch = images, texts, OWNERS, IDS
    expected = {
        "instance_image": 0.5 * instance_loss(images, classifier.weight, IDS, logit_scale=8.0),
        "instance_text": 2.0
        * instance_loss(texts, classifier.weight, IDS[OWNERS], logit_scale=8.0),
        "ranking": 3.0 * ranking_loss(*batch, margin=0.2, negatives="hardest"),
        "contrastive": 4.0 * contrastive_loss(*batch, temperature=0.1),
    }
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], msg=name)


@pytest.mark.parametrize("name", ["instance", "ranking", "contrastive"])
def test_only_the_losses_of_the_stage_are_computed(features, classifier, name):
    losses = stage_losses(stage(**{name: {}}), classifier, *features, OWNERS, IDS)
    assert {key.partition("_")[0] for key in losses} == {name}


def test_mined_captions_are_negatives_and_captions_of_their_own_instances(features, classifier):
    images, texts = features
    mined = MinedCaptions(torch.randn(2, 6), torch.tensor([0, 1]))
    recipe = stage(instance={}, ranking={"margin": 0.3, "negatives": "mined"})
    losses = stage_losses(recipe, classifier, images, texts, OWNERS, IDS, mined)
    captions, instances = torch.cat([texts, mined.features]), torch.tensor([4, 2, 2, 0, 1])
    expected = instance_loss(captions, classifier.weight, instances)
    torch.testing.assert_close(losses["instance_text"], expected)
    # The only other image is the random negative.
    ranking = mined_ranking_loss(images, texts, mined.features, OWNERS, IDS, margin=0.3)
    torch.testing.assert_close(losses["ranking"], ranking)
