"""Parameter groups, optimisers and learning rates of a stage."""

import math
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dualpath.losses.instance import InstanceClassifier
from dualpath.models.dual_encoder import DualEncoder
from dualpath.recipes.schema import Recipe
from dualpath.recipes.stages import OptimizerRecipe, ParameterGroup, ScheduleRecipe, StageRecipe


class Optimizers(NamedTuple):
    """Two optimisers.

    Attributes:
        network: of the network and the projection of the classifier.
        classifier: of the classes.
    """

    network: torch.optim.Optimizer
    classifier: torch.optim.Optimizer

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups of both."""
        return [*self.network.param_groups, *self.classifier.param_groups]


def build_classifier(recipe: Recipe, class_of: Tensor) -> InstanceClassifier:
    """Build the classifier of the instance loss.

    Args:
        class_of: (instances,) int64, the class of each instance.
    """
    classifier = recipe.classifier
    return InstanceClassifier(
        recipe.dim,
        class_of,
        shared=classifier.shared,
        projection_dim=classifier.projection_dim,
        sample_rate=classifier.sample_rate,
        num_heads=recipe.num_heads,
        bias=classifier.bias,
    )


def freeze(network: DualEncoder, stage: StageRecipe) -> None:
    """Freeze the pretrained parts that a stage does not train."""
    network.image_encoder.set_backbone(
        stage.backbone, last_layers=stage.last_layers, running_rate=stage.backbone_running_rate
    )
    network.text_encoder.freeze(stage)


def parameter_groups(
    network: DualEncoder,
    classifier: InstanceClassifier,
    apart: Collection[ParameterGroup] = (),
) -> dict[ParameterGroup, list[nn.Parameter]]:
    """Return every parameter under the name by which recipes set its learning rate.

    Args:
        apart: groups that a recipe sets apart from the group that they are a part of.
    """
    image, text = network.image_encoder, network.text_encoder
    of_text = text.parameter_groups()
    norm_scales = [
        layer.weight
        for encoder in (image.head, text)
        for layer in encoder.modules()
        if isinstance(layer, nn.BatchNorm1d)
    ]
    named = {id(parameter) for group in (*of_text.values(), norm_scales) for parameter in group}
    return {
        **_backbone_groups(image.backbone, apart),
        "image_head": [p for p in image.head.parameters() if id(p) not in named],
        "word_embedding": of_text.get("word_embedding", []),
        "text_backbone": of_text.get("text_backbone", []),
        "text_trunk": [p for p in text.parameters() if id(p) not in named],
        "norm_scale": norm_scales,
        "classifier": [p for p in classifier.parameters() if p is not classifier.bias],
        **({} if classifier.bias is None else {"classifier_bias": [classifier.bias]}),
    }


def _backbone_groups(
    backbone: nn.Module, apart: Collection[ParameterGroup]
) -> dict[ParameterGroup, list[nn.Parameter]]:
    """Return the parameters of a backbone, without those set apart and these by themselves."""
    modules = list(backbone.modules())
    first = next((layer.weight for layer in modules if isinstance(layer, nn.Conv2d)), None)
    parts: dict[ParameterGroup, list[Any]] = {
        "backbone_first_conv": [first],
        "backbone_norm_scale": [m.weight for m in modules if isinstance(m, _BatchNorm)],
        "backbone_bias": [getattr(layer, "bias", None) for layer in modules],
    }
    parts = {name: [p for p in parts[name] if p is not None] for name in parts if name in apart}
    named = {id(parameter) for part in parts.values() for parameter in part}
    rest = [p for p in backbone.parameters() if id(p) not in named]
    return {"image_backbone": rest, **parts}


def build_optimizers(
    recipe: OptimizerRecipe, network: DualEncoder, classifier: InstanceClassifier
) -> Optimizers:
    """Build the optimisers of a stage over the parameters that are not frozen.

    Each parameter group carries ``base_lr``, which :func:`set_learning_rate` multiplies.
    """
    rows = {id(classifier.get_parameter(name)) for name in classifier.row_names()}
    groups: list[dict[str, Any]] = []
    for name, lr, parameters in _with_learning_rates(recipe, network, classifier):
        trained = [p for p in parameters if p.requires_grad and id(p) not in rows]
        vectors = [p for p in trained if p.ndim < 2 and recipe.name == "adamw"]
        matrices = [p for p in trained if not (p.ndim < 2 and recipe.name == "adamw")]
        for chosen, decay in ((matrices, recipe.weight_decay), (vectors, 0.0)):
            if chosen:
                groups.append(
                    {"params": chosen, "lr": lr, "base_lr": lr, "weight_decay": decay, "name": name}
                )
    lr = recipe.lr * recipe.rates.get("classifier", 1.0)
    classes: dict[str, Any] = {"params": classifier.weights(), "lr": lr, "base_lr": lr}
    classes |= {"name": "classifier", "weight_decay": recipe.weight_decay}
    if classifier.sample_rate < 1:
        del classes["weight_decay"]
        return Optimizers(_optimizer(recipe, groups), torch.optim.SparseAdam([classes]))
    of_classes = [classes]
    if classifier.bias is not None:
        lr = recipe.lr * recipe.rates.get("classifier_bias", recipe.rates.get("classifier", 1.0))
        decay = recipe.weight_decay if recipe.name == "sgd" else 0.0
        bias: dict[str, Any] = {"params": [classifier.bias], "lr": lr, "base_lr": lr}
        of_classes.append({**bias, "name": "classifier_bias", "weight_decay": decay})
    return Optimizers(_optimizer(recipe, groups), _optimizer(recipe, of_classes))


def _optimizer(recipe: OptimizerRecipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if recipe.name == "sgd":
        nesterov = recipe.momentum > 0
        return torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=nesterov, fused=True)
    return torch.optim.AdamW(groups, fused=True)


def _with_learning_rates(
    recipe: OptimizerRecipe, network: DualEncoder, classifier: InstanceClassifier
) -> Iterator[tuple[ParameterGroup, float, list[nn.Parameter]]]:
    for name, parameters in parameter_groups(network, classifier, recipe.rates).items():
        lr = recipe.lr * recipe.rates.get(name, 1.0)
        if "backbone" not in name or name == "text_backbone" or recipe.layer_decay == 1.0:
            yield name, lr, parameters
            continue
        layers: dict[int, list[nn.Parameter]] = {}
        distances, own = network.image_encoder.layer_distances(), {id(p) for p in parameters}
        for key, parameter in network.image_encoder.backbone.named_parameters():
            if id(parameter) in own:
                layers.setdefault(distances[key], []).append(parameter)
        for distance, layer in sorted(layers.items()):
            yield name, lr * recipe.layer_decay**distance, layer


def set_learning_rate(optimizers: Optimizers, multiplier: float) -> None:
    """Set every parameter group to its base learning rate times ``multiplier``."""
    for group in optimizers.groups:
        group["lr"] = group["base_lr"] * multiplier


def lr_multiplier(schedule: ScheduleRecipe, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Return the multiplier of the learning rates at a step of a stage.

    It is a function of the step alone, so a resumed training continues the schedule.

    >>> lr_multiplier(ScheduleRecipe(decay="steps", milestones=(2,)), 25, 10, 3)
    0.1
    """
    total = steps_per_epoch * epochs
    warmup = schedule.warmup * total
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule.decay == "cosine":
        progress = (step - warmup) / max(1.0, total - warmup)
        return 0.5 * (1 + math.cos(math.pi * progress))
    if schedule.decay == "steps":
        passed = sum(step // steps_per_epoch >= milestone for milestone in schedule.milestones)
        return float(schedule.factor**passed)
    return 1.0
