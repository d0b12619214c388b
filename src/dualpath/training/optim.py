"""Parameter groups, optimisers and learning rates of a stage."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

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
    )


def freeze(network: DualEncoder, stage: StageRecipe) -> None:
    """Freeze the pretrained parts that a stage does not train."""
    network.image_encoder.set_backbone(stage.backbone, last_layers=stage.last_layers)
    network.text_encoder.freeze(stage)


def parameter_groups(
    network: DualEncoder, classifier: InstanceClassifier
) -> dict[ParameterGroup, list[nn.Parameter]]:
    """Return every parameter under the name by which recipes set its learning rate."""
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
        "image_backbone": list(image.backbone.parameters()),
        "image_head": [p for p in image.head.parameters() if id(p) not in named],
        "word_embedding": of_text.get("word_embedding", []),
        "text_backbone": of_text.get("text_backbone", []),
        "text_trunk": [p for p in text.parameters() if id(p) not in named],
        "norm_scale": norm_scales,
        "classifier": list(classifier.parameters()),
    }


def build_optimizers(
    recipe: OptimizerRecipe, network: DualEncoder, classifier: InstanceClassifier
) -> Optimizers:
    """Build the optimisers of a stage over the parameters that are not frozen.

    Each parameter group carries ``base_lr``, which :func:`set_learning_rate` multiplies.
    """
    rows = {id(weight) for weight in classifier.weights()}
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
    return Optimizers(_optimizer(recipe, groups), _optimizer(recipe, [classes]))


def _optimizer(recipe: OptimizerRecipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if recipe.name == "sgd":
        nesterov = recipe.momentum > 0
        return torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=nesterov, fused=True)
    return torch.optim.AdamW(groups, fused=True)


def _with_learning_rates(
    recipe: OptimizerRecipe, network: DualEncoder, classifier: InstanceClassifier
) -> Iterator[tuple[ParameterGroup, float, list[nn.Parameter]]]:
    for name, parameters in parameter_groups(network, classifier).items():
        lr = recipe.lr * recipe.rates.get(name, 1.0)
        if name != "image_backbone" or recipe.layer_decay == 1.0:
            yield name, lr, parameters
            continue
        layers: dict[int, list[nn.Parameter]] = {}
        distances = network.image_encoder.layer_distances()
        for key, parameter in network.image_encoder.backbone.named_parameters():
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
