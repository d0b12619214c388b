"""The values of the paper in the recipes that repeat it."""

import re

import pytest

from dualpath.recipes.loading import read_recipe, shipped_recipes

PAPER = ("flickr30k", "mscoco", "cuhk_pedes")
DROPOUT = {"flickr30k": 0.75, "mscoco": 0.5, "cuhk_pedes": 0.8}


def dataset(name):
    return re.sub("_(vgg|resnet).*", "", name)


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if dataset(name) in PAPER])
def test_the_recipes_of_the_paper_have_its_values(name):
    recipe = read_recipe(name)
    first, second = recipe.stages
    person = dataset(name) == "cuhk_pedes"
    assert recipe.dim == 2048
    assert recipe.relu_before_loss
    assert recipe.text_encoder.depths == (3, 4, 6, 1)
    assert recipe.text_encoder.max_words == (56 if person else 32)
    assert recipe.text_encoder.padding == "unmasked"
    for stage in recipe.stages:
        assert stage.instance.dropout == DROPOUT[dataset(name)]
        assert (stage.instance.image_weight, stage.instance.text_weight) == (1, 1)
        assert stage.instance.logit_scale is None
        rates = {group: stage.optimizer.lr * r for group, r in stage.optimizer.rates.items()}
        assert rates["classifier"] == pytest.approx(1e-3)
        assert rates["text_trunk"] == rates["image_head"] == pytest.approx(1e-2)
        assert rates["word_embedding"] == pytest.approx(1e-4)
        assert stage.captions_of == ("instance" if person else "image")
    assert (first.backbone, first.ranking) == ("frozen", None)
    assert (second.ranking.weight, second.ranking.margin) == (1, 1)
    assert second.ranking.negatives == ("random" if person else "mined")


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if dataset(name) in PAPER])
def test_the_recipes_of_the_paper_follow_the_numbers_of_the_authors_code(name):
    recipe = read_recipe(name)
    first, second = recipe.stages
    assert recipe.batch_norm == "paper"
    assert recipe.text_encoder.split_question_marks == (dataset(name) == "mscoco")
    with_bias = ("flickr30k", "flickr30k_resnet152", "cuhk_pedes", "cuhk_pedes_vgg16")
    assert recipe.classifier.bias == (name in with_bias)
    assert (first.backbone_running_rate, second.backbone_running_rate) == (None, 0.001)
    rates = second.optimizer.rates
    is_vgg = "vgg" in name
    assert rates["image_backbone"] == (0.001 if is_vgg else 0.02)
    assert rates.get("backbone_bias", rates["image_backbone"]) == 0.02
    assert rates["backbone_norm_scale"] == 0.001
    assert rates["backbone_first_conv"] == 1e-4
    assert rates.get("classifier_bias", 0.02) == 0.02


def test_other_recipes_keep_the_defaults_of_torch():
    others = [name for name in shipped_recipes() if dataset(name) not in PAPER]
    assert others
    for name in others:
        recipe = read_recipe(name)
        assert recipe.batch_norm == "torch"
        assert not recipe.classifier.bias
        assert recipe.text_encoder.split_question_marks
        assert all(stage.backbone_running_rate is None for stage in recipe.stages)


def test_there_are_recipes_of_the_paper_for_every_data_set():
    assert {dataset(name) for name in shipped_recipes()} >= set(PAPER)
