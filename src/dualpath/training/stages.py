"""What a stage of a recipe means: frozen parts, parameter groups, learning rates, losses."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dualpath.losses.instance import InstanceClassifier
from dualpath.losses.parts import mean_over_parts
from dualpath.losses.ranking import contrastive_loss, mined_ranking_loss, ranking_loss
from dualpath.models.dual_path import DualPathNetwork, TextEncoder
from dualpath.models.text_cnn import TextCNN
from dualpath.models.text_transformer import TextTransformer
from dualpath.recipe import (
    OptimizerRecipe,
    ParameterGroup,
    Recipe,
    ScheduleRecipe,
    StageRecipe,
    TextEncoderRecipe,
)


class Mined(NamedTuple):
    """Hard captions: (n, dim) features, one for each picture, and their instances, (n,) int64."""

    features: Tensor
    instance_ids: Tensor


def parameter_groups(
    network: DualPathNetwork, classifier: InstanceClassifier
) -> dict[ParameterGroup, list[nn.Parameter]]:
    """Return every parameter under the name by which recipes set its rate."""
    image, text = network.image_encoder, network.text_encoder
    embedding, backbone = [], []
    if isinstance(text, TextTransformer):
        backbone = list(text.backbone.parameters())
    else:
        embedding = list(text.embedding.parameters())
    if isinstance(text, TextCNN):
        embedding.append(text.embedding_bias)
    scales = [
        layer.weight
        for part in (image.head, text)
        for layer in part.modules()
        if isinstance(layer, nn.BatchNorm1d)
    ]
    named = {id(parameter) for parameter in (*embedding, *backbone, *scales)}
    return {
        "image_backbone": list(image.backbone.parameters()),
        "image_head": [p for p in image.head.parameters() if id(p) not in named],
        "word_embedding": embedding,
        "text_backbone": backbone,
        "text_trunk": [p for p in text.parameters() if id(p) not in named],
        "norm_scale": scales,
        "classifier": list(classifier.parameters()),
    }


def freeze(network: DualPathNetwork, stage: StageRecipe) -> None:
    """Freeze what a stage does not train of what was pretrained."""
    network.image_encoder.set_backbone(stage.backbone, last_layers=stage.last_layers)
    if isinstance(network.text_encoder, TextTransformer):
        network.text_encoder.set_backbone(stage.sentence_encoder)


def build_classifier(recipe: Recipe, class_of: Tensor) -> InstanceClassifier:
    """Build the classifier of the instance loss; ``class_of`` is (instances,) int64."""
    classifier = recipe.classifier
    return InstanceClassifier(
        recipe.dim,
        class_of,
        shared=classifier.shared,
        projection=classifier.projection,
        fraction=classifier.fraction,
        parts=recipe.parts,
    )


class Optimizers(NamedTuple):
    """Of the network (and the classifier's projection), and of the classifier's rows."""

    network: torch.optim.Optimizer
    classifier: torch.optim.Optimizer

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups of both."""
        return [*self.network.param_groups, *self.classifier.param_groups]


def build_optimizers(
    recipe: OptimizerRecipe, network: DualPathNetwork, classifier: InstanceClassifier
) -> Optimizers:
    """Build the optimisers of a stage; parameters that are frozen are left out.

    Each of their groups carries ``base_lr``, from which :func:`set_learning_rate` computes.
    """
    rows = {id(weight) for weight in classifier.weights()}
    options: list[dict[str, Any]] = []
    for name, lr, parameters in _with_rates(recipe, network, classifier):
        trained = [p for p in parameters if p.requires_grad and id(p) not in rows]
        vectors = [p for p in trained if p.ndim < 2 and recipe.name == "adamw"]
        matrices = [p for p in trained if not (p.ndim < 2 and recipe.name == "adamw")]
        for chosen, decay in ((matrices, recipe.weight_decay), (vectors, 0.0)):
            if chosen:
                options.append(
                    {"params": chosen, "lr": lr, "base_lr": lr, "weight_decay": decay, "name": name}
                )
    lr = recipe.lr * recipe.rates.get("classifier", 1.0)
    own: dict[str, Any] = {"params": classifier.weights(), "lr": lr, "base_lr": lr}
    own |= {"name": "classifier", "weight_decay": recipe.weight_decay}
    if classifier.fraction < 1:
        del own["weight_decay"]
        return Optimizers(_optimizer(recipe, options), torch.optim.SparseAdam([own]))
    return Optimizers(_optimizer(recipe, options), _optimizer(recipe, [own]))


def _optimizer(recipe: OptimizerRecipe, options: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if recipe.name == "sgd":
        return torch.optim.SGD(
            options, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True
        )
    return torch.optim.AdamW(options, fused=True)


def _with_rates(
    recipe: OptimizerRecipe, network: DualPathNetwork, classifier: InstanceClassifier
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


def set_learning_rate(optimizers: Optimizers, factor: float) -> None:
    """Set every group to its base rate times ``factor``."""
    for group in optimizers.groups:
        group["lr"] = group["base_lr"] * factor


def rate_factor(schedule: ScheduleRecipe, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Return what multiplies the rates at a step of a stage, a pure function of the step.

    >>> rate_factor(ScheduleRecipe(decay="steps", milestones=(2,)), 25, 10, 3)
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


def augment_words(encoder: TextEncoder, token_ids: Tensor, recipe: TextEncoderRecipe) -> Tensor:
    """Drop words (they become unknown) and place sentences (paper, section 4.1, position shift).

    Args:
        token_ids: (batch, words) int64, left-aligned.

    Returns:
        (batch, positions) int64. Only the paper's CNN places sentences.
    """
    if isinstance(encoder, TextTransformer):
        return token_ids
    if recipe.word_dropout:
        dropped = torch.rand(token_ids.shape, device=token_ids.device) < recipe.word_dropout
        unknown = encoder.embedding.num_embeddings - 1
        token_ids = token_ids.masked_fill(dropped & (token_ids != 0), unknown)
    if not isinstance(encoder, TextCNN):
        return token_ids
    if recipe.position_shift:
        return encoder.place_at_random(token_ids)
    starts = torch.zeros(len(token_ids), dtype=torch.int64, device=token_ids.device)
    return encoder.place(token_ids, starts)


def stage_losses(
    stage: StageRecipe,
    classifier: Callable[..., tuple[Tensor, Tensor]],
    image_features: Tensor,
    text_features: Tensor,
    owners: Tensor,
    instance_ids: Tensor,
    mined: Mined | None = None,
    *,
    parts: int = 1,
) -> dict[str, Tensor]:
    """Return the weighted losses of a stage by name; their sum is what is minimised.

    Args:
        classifier: an ``InstanceClassifier``, or what calls one.
        image_features: (n, dim). text_features: (m, dim).
        owners: (m,) int64, the picture of each caption. instance_ids: (n,) int64.
        mined: a hard caption for each picture, where the stage mines them; they count in the
            instance loss as captions of their own instances do (authors' code).
        parts: of the features, each of which has all losses; so has the classifier.
    """

    def over_parts(loss: Callable[..., Tensor], *further: Tensor, **options: Any) -> Tensor:
        of_part = partial(loss, owners=owners, instance_ids=instance_ids, **options)
        return mean_over_parts(of_part, parts, image_features, text_features, *further)

    losses: dict[str, Tensor] = {}
    text_ids = instance_ids[owners]
    if stage.instance:
        recipe = stage.instance
        image_loss, text_loss = classifier(
            image_features,
            text_features if mined is None else torch.cat([text_features, mined.features]),
            instance_ids,
            text_ids if mined is None else torch.cat([text_ids, mined.instance_ids]),
            scale=recipe.scale,
            dropout=recipe.dropout,
        )
        losses["instance_image"] = recipe.image_weight * image_loss
        losses["instance_text"] = recipe.text_weight * text_loss
    if stage.ranking and mined is not None:
        losses["ranking"] = stage.ranking.weight * over_parts(
            mined_ranking_loss, mined.features, margin=stage.ranking.margin
        )
    elif stage.ranking and stage.ranking.negatives != "mined":
        losses["ranking"] = stage.ranking.weight * over_parts(
            ranking_loss, margin=stage.ranking.margin, negatives=stage.ranking.negatives
        )
    if stage.contrastive:
        losses["contrastive"] = stage.contrastive.weight * over_parts(
            contrastive_loss, temperature=stage.contrastive.temperature
        )
    return losses
