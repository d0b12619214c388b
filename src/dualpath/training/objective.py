"""The objective of a stage: its losses over the features of a batch."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dualpath.losses.ensemble import mean_over_heads
from dualpath.losses.ranking import mined_ranking_loss, ranking_loss
from dualpath.losses.registry import PAIR_LOSSES
from dualpath.recipes.stages import StageRecipe


class MinedCaptions(NamedTuple):
    """A hard caption for each of n images.

    Attributes:
        features: (n, dim).
        instance_ids: (n,) int64.
    """

    features: Tensor
    instance_ids: Tensor


def stage_losses(
    stage: StageRecipe,
    classifier: Callable[..., tuple[Tensor, Tensor]],
    image_features: Tensor,
    text_features: Tensor,
    owners: Tensor,
    instance_ids: Tensor,
    mined: MinedCaptions | None = None,
    *,
    num_heads: int = 1,
) -> dict[str, Tensor]:
    """Return the weighted losses of a stage by name; their sum is minimised.

    Args:
        classifier: an ``InstanceClassifier``, or a function that calls one.
        image_features: (n, dim).
        text_features: (m, dim).
        owners: (m,) int64, the image of each caption.
        instance_ids: (n,) int64.
        mined: hard captions, where the stage mines them. They enter the instance loss as captions
            of their own instances (authors' code).
        num_heads: equal parts of the features, each with all losses.
    """

    def over_heads(loss: Callable[..., Tensor], *further: Tensor, **options: Any) -> Tensor:
        of_head = partial(loss, owners=owners, instance_ids=instance_ids, **options)
        return mean_over_heads(of_head, num_heads, image_features, text_features, *further)

    losses: dict[str, Tensor] = {}
    text_ids = instance_ids[owners]
    if stage.instance:
        recipe = stage.instance
        image_loss, text_loss = classifier(
            image_features,
            text_features if mined is None else torch.cat([text_features, mined.features]),
            instance_ids,
            text_ids if mined is None else torch.cat([text_ids, mined.instance_ids]),
            logit_scale=recipe.logit_scale,
            dropout=recipe.dropout,
        )
        losses["instance_image"] = recipe.image_weight * image_loss
        losses["instance_text"] = recipe.text_weight * text_loss
    if stage.ranking and mined is not None:
        losses["ranking"] = stage.ranking.weight * over_heads(
            mined_ranking_loss, mined.features, margin=stage.ranking.margin
        )
    elif stage.ranking and stage.ranking.negatives != "mined":
        losses["ranking"] = stage.ranking.weight * over_heads(
            ranking_loss, margin=stage.ranking.margin, negatives=stage.ranking.negatives
        )
    for name, loss in PAIR_LOSSES.items():
        pair_recipe = getattr(stage, name)
        if pair_recipe is not None:
            options = pair_recipe.model_dump(exclude={"weight"})
            losses[name] = pair_recipe.weight * over_heads(loss, **options)
    return losses
