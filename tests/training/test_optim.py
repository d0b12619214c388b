import pytest
import torch

from dualpath.losses.instance import InstanceClassifier
from dualpath.models.dual_encoder import build_network
from dualpath.recipes.stages import OptimizerRecipe, ScheduleRecipe, StageRecipe
from dualpath.training.optim import (
    build_classifier,
    build_optimizers,
    freeze,
    lr_multiplier,
    parameter_groups,
    set_learning_rate,
)
from tests.conftest import small_recipe, small_resolved_recipe


@pytest.fixture
def network():
    return build_network(small_resolved_recipe(), 20)


@pytest.fixture
def classifier():
    return InstanceClassifier(32, torch.arange(5))


def test_a_cosine_schedule_warms_up_and_falls_to_zero():
    cosine = ScheduleRecipe(warmup=0.1, decay="cosine")
    rates = [lr_multiplier(cosine, step, 10, 10) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10] == 1
    assert max(rates) == 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] < 0.001


def test_a_schedule_in_steps_multiplies_the_rate_after_each_milestone():
    steps = ScheduleRecipe(decay="steps", milestones=(2, 4), factor=0.1)
    assert [lr_multiplier(steps, step, 1, 5) for step in range(5)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01]
    )


def test_without_a_schedule_the_rate_is_constant():
    assert lr_multiplier(ScheduleRecipe(), 7, 10, 1) == 1


def test_groups_hold_every_parameter_once(network, classifier):
    network.image_encoder.set_backbone("frozen")
    groups = parameter_groups(network, classifier)
    held = [id(p) for group in groups.values() for p in group]
    everything = {id(p) for module in (network, classifier) for p in module.parameters()}
    assert len(held) == len(set(held))
    assert set(held) == everything


def test_groups_of_a_sentence_encoder_hold_every_parameter_once(sentence_encoder, classifier):
    text = {"transformer": str(sentence_encoder)}
    network = build_network(small_resolved_recipe(text_encoder=text), 20)
    groups = parameter_groups(network, classifier)
    held = [id(p) for group in groups.values() for p in group]
    assert sorted(held) == sorted({id(p) for m in (network, classifier) for p in m.parameters()})
    assert groups["word_embedding"] == []
    assert len(groups["text_backbone"]) == len(list(network.text_encoder.backbone.parameters()))


def test_groups_get_their_rates_and_vectors_no_weight_decay(network, classifier):
    network.image_encoder.set_backbone("frozen")
    recipe = OptimizerRecipe(name="adamw", lr=0.1, weight_decay=0.3, rates={"classifier": 0.01})
    groups = build_optimizers(recipe, network, classifier).groups
    assert "image_backbone" not in {group["name"] for group in groups}
    for group in groups:
        assert group["lr"] == pytest.approx(0.001 if group["name"] == "classifier" else 0.1)
        assert all((p.ndim >= 2) == (group["weight_decay"] > 0) for p in group["params"])


def test_sgd_decays_every_parameter(network, classifier):
    recipe = OptimizerRecipe(name="sgd", lr=0.1, weight_decay=0.3)
    groups = build_optimizers(recipe, network, classifier).groups
    assert {group["weight_decay"] for group in groups} == {0.3}
    assert any(p.ndim < 2 for group in groups for p in group["params"])


def test_a_sampled_classifier_has_sparse_adam_without_weight_decay(network):
    recipe = small_recipe(classifier={"sample_rate": 0.5, "projection_dim": 4})
    classifier = build_classifier(recipe, torch.arange(9))
    optimizers = build_optimizers(OptimizerRecipe(weight_decay=0.3), network, classifier)
    assert isinstance(optimizers.classifier, torch.optim.SparseAdam)
    (rows,) = optimizers.classifier.param_groups
    assert [id(p) for p in rows["params"]] == [id(classifier.weight)]
    others = {id(p) for group in optimizers.network.param_groups for p in group["params"]}
    assert id(classifier.projection.weight) in others
    assert id(classifier.weight) not in others


def test_layers_nearer_to_the_pixels_have_lower_rates(network, classifier):
    encoder = network.image_encoder
    by_name = encoder.layer_distances()
    distances = {id(p): by_name[name] for name, p in encoder.backbone.named_parameters()}
    recipe = OptimizerRecipe(lr=0.1, layer_decay=0.5, rates={"image_backbone": 0.1})
    for group in build_optimizers(recipe, network, classifier).groups:
        if group["name"] == "image_backbone":
            (distance,) = {distances[id(p)] for p in group["params"]}
            assert group["lr"] == pytest.approx(0.01 * 0.5**distance)
        else:
            assert group["lr"] == pytest.approx(0.1)


PARTS = {"backbone_first_conv": 1e-4, "backbone_norm_scale": 1e-3, "backbone_bias": 2e-2}


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_parts_of_the_backbone_may_have_rates_of_their_own(network, classifier, layer_decay):
    backbone = network.image_encoder.backbone
    recipe = OptimizerRecipe(
        name="sgd", lr=0.1, layer_decay=layer_decay, rates={"image_backbone": 2e-3, **PARTS}
    )
    optimizers = build_optimizers(recipe, network, classifier)
    rates = {id(p): g["lr"] for g in optimizers.groups for p in g["params"]}
    assert len(rates) == len(list(network.parameters())) + 1  # each once, and the classifier
    distances = network.image_encoder.layer_distances()
    modules = dict(backbone.named_modules())
    for name, parameter in backbone.named_parameters():
        layer, _, kind = name.rpartition(".")
        if kind == "bias":
            rate = PARTS["backbone_bias"]
        elif isinstance(modules[layer], torch.nn.modules.batchnorm._BatchNorm):
            rate = PARTS["backbone_norm_scale"]
        else:
            rate = PARTS["backbone_first_conv"] if name == "conv_stem.weight" else 2e-3
        expected = 0.1 * rate * layer_decay ** distances[name]
        assert rates[id(parameter)] == pytest.approx(expected), name


def test_without_rates_of_their_own_the_parts_stay_in_one_group(network, classifier):
    groups = build_optimizers(OptimizerRecipe(name="sgd"), network, classifier).groups
    named = [group for group in groups if group["name"].startswith("backbone")]
    assert named == []
    (backbone,) = (group for group in groups if group["name"] == "image_backbone")
    parameters = list(network.image_encoder.backbone.parameters())
    assert [id(p) for p in backbone["params"]] == [id(p) for p in parameters]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_bias_of_the_classifier_has_a_rate_of_its_own(network, name):
    classifier = InstanceClassifier(32, torch.arange(5), bias=True)
    rates = {"classifier": 0.01, "classifier_bias": 0.02}
    recipe = OptimizerRecipe(name=name, lr=0.1, weight_decay=0.3, rates=rates)
    weights, bias = build_optimizers(recipe, network, classifier).classifier.param_groups
    assert (weights["lr"], bias["lr"]) == pytest.approx((1e-3, 2e-3))
    assert [id(p) for p in bias["params"]] == [id(classifier.bias)]
    assert bias["weight_decay"] == (0.3 if name == "sgd" else 0)
    without = OptimizerRecipe(lr=0.1, rates={"classifier": 0.01})
    _, bias = build_optimizers(without, network, classifier).classifier.param_groups
    assert bias["lr"] == pytest.approx(1e-3)
    groups = parameter_groups(network, classifier)
    assert groups["classifier_bias"] == [classifier.bias]


@pytest.mark.parametrize("grid", [1, 2])
def test_a_stage_may_train_only_the_last_layers(grid):
    image = {"backbone": "test_resnet", "pretrained": False, "input_size": 64, "grid": grid}
    encoder = build_network(small_resolved_recipe(image_encoder=image), 20).image_encoder
    by_name = encoder.layer_distances()
    encoder.set_backbone("trained", last_layers=2)
    trained = {by_name[n] for n, p in encoder.backbone.named_parameters() if p.requires_grad}
    frozen = {by_name[n] for n, p in encoder.backbone.named_parameters() if not p.requires_grad}
    assert trained == {0, 1}
    assert min(frozen) == 2


def test_a_stage_freezes_what_it_does_not_train(network):
    stage = {"name": "one", "epochs": 1, "instance": {}}
    freeze(network, StageRecipe.model_validate({**stage, "backbone": "frozen"}))
    assert not any(p.requires_grad for p in network.image_encoder.backbone.parameters())
    assert all(p.requires_grad for p in network.image_encoder.head.parameters())
    freeze(network, StageRecipe.model_validate(stage))
    assert all(p.requires_grad for p in network.parameters())


def test_the_multiplier_scales_every_base_rate(network, classifier):
    recipe = OptimizerRecipe(lr=0.1, rates={"classifier": 0.01})
    optimizers = build_optimizers(recipe, network, classifier)
    for multiplier in (0.5, 0.25):  # not cumulative
        set_learning_rate(optimizers, multiplier)
        for group in optimizers.groups:
            base = 0.001 if group["name"] == "classifier" else 0.1
            assert group["lr"] == pytest.approx(base * multiplier)
