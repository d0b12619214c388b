import numpy as np
import pytest
import torch
from accelerate import Accelerator

from dualpath.data.captions import tabulate_captions
from dualpath.data.manifest import read_manifest
from dualpath.data.tokenizer import Tokenizer, count_words
from dualpath.errors import MiningError
from dualpath.models.dual_encoder import build_network
from dualpath.recipes.stages import StageRecipe
from dualpath.training.batches import Batch
from dualpath.training.mining import mine_captions, most_similar
from dualpath.training.optim import build_classifier
from dualpath.training.sampler import EpochSampler
from dualpath.training.step import step_losses
from tests.conftest import small_resolved_recipe

RECIPE = small_resolved_recipe()


@pytest.fixture
def tokenizer(shapes):
    words = list(count_words(read_manifest(shapes).images.captions, "modern"))
    return Tokenizer(words, "modern", RECIPE.text_encoder.max_words)


@pytest.fixture
def table(shapes, tokenizer, tmp_path):
    return tabulate_captions(read_manifest(shapes).split("train").images, tokenizer, tmp_path)


@pytest.fixture
def network(tokenizer):
    torch.manual_seed(0)
    return build_network(RECIPE, tokenizer.num_embeddings).train()


def batch_of(table, images):
    plan = next(iter(EpochSampler(table, batch_size=images, captions_per_image=1, seed=(0, 0, 0))))
    return Batch(
        images=torch.randint(256, (images, 3, 32, 32), dtype=torch.uint8),
        token_ids=torch.from_numpy(table.tokens_of(plan.captions)),
        owners=torch.from_numpy(plan.owners),
        instance_ids=torch.from_numpy(table.instance_ids[plan.images]),
    )


def test_mined_captions_are_the_hardest_of_other_instances(table, network):
    batch = batch_of(table, 8)
    everything = len(table.token_ids)
    placed, mined_ids = mine_captions(network, batch, table, RECIPE.text_encoder, everything)
    assert network.training
    assert not torch.isin(mined_ids, batch.instance_ids).any()
    network.eval()
    with torch.no_grad():
        images, mined = network(batch.images, placed)
        every = network.text_encoder(
            network.text_encoder.place_at_random(
                torch.from_numpy(table.tokens_of(np.arange(everything)))
            )
        )
    scores = torch.cosine_similarity(images, mined)
    others = torch.cosine_similarity(images[:, None], every[None], dim=2)
    instances = torch.from_numpy(table.instance_ids[table.owners])
    others[:, torch.isin(instances, batch.instance_ids)] = -1
    # Another draw of the positions changes the scores a little.
    assert (scores > others.quantile(0.8, dim=1)).all()


def test_captions_are_mined_by_the_features_that_the_losses_see():
    # Before the ReLU the first caption is nearer to the image, after it the second.
    image = torch.tensor([[1.0, 0.5, -3.0]])
    captions = torch.tensor([[1.0, -0.5, -3.0], [1.0, 0.5, 3.0 / 8]])
    assert most_similar(image, captions).tolist() == [0]
    assert most_similar(image, captions, relu=True).tolist() == [1]


@pytest.mark.parametrize("relu", [True, False])
def test_the_recipe_chooses_the_features_of_mining(table, network, monkeypatch, relu):
    asked = []

    def stop(*_, **options):
        asked.append(options["relu"])
        raise MiningError("seen")

    monkeypatch.setattr("dualpath.training.step.mine_captions", stop)
    stage = StageRecipe(
        name="one", epochs=1, ranking={"negatives": "mined"}, instance={"dropout": 0.5}
    )
    with pytest.raises(MiningError, match="seen"):
        step_losses(
            network,
            build_classifier(RECIPE, torch.arange(table.instances)),
            batch_of(table, 8),
            recipe=small_resolved_recipe(relu_before_loss=relu),
            stage=stage,
            table=table,
            teacher=None,
            seed=0,
            accelerator=Accelerator(cpu=True),
        )
    assert asked == [relu]


def test_a_batch_of_all_instances_leaves_nothing_to_mine(table, network):
    with pytest.raises(MiningError, match="lower the stage's batch_size"):
        mine_captions(network, batch_of(table, 80), table, RECIPE.text_encoder, 8)
