"""Ranking loss: a large-margin loss over the images and captions of a batch (paper, eq. 6)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dualpath.losses.similarity import batch_similarity

Negatives = Literal["random", "hardest", "all"]


def ranking_loss(
    image_features: Tensor,
    text_features: Tensor,
    owners: Tensor,
    instance_ids: Tensor,
    *,
    margin: float = 1.0,
    negatives: Negatives = "random",
) -> Tensor:
    """Return the hinge loss on cosines in both directions (paper, section 3.4, eq. 6).

    For each caption and its image: ``max(0, margin - (positive - other caption))`` plus
    ``max(0, margin - (positive - other image))``.

    Args:
        image_features: (n, dim).
        text_features: (m, dim). Both are normalised here.
        owners: (m,) int64, the image of each caption.
        instance_ids: (n,) int64, the instance of each image.
        margin: of the hinge.
        negatives: the others are one drawn at random, the hardest of the batch, or all of the batch
            (then the mean over them is taken).

    Returns:
        The mean over the captions, a scalar. A caption without any negative contributes 0.

    >>> images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> captions = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> ranking_loss(images, captions, torch.tensor([0, 1]), torch.tensor([0, 1]),
    ...              margin=0.5, negatives="hardest")
    tensor(1.2500)
    """
    similarity = batch_similarity(image_features, text_features, owners, instance_ids)
    caption_costs = F.relu(margin - similarity.positive[:, None] + similarity.captions)
    image_costs = F.relu(margin - similarity.positive[:, None] + similarity.images)
    costs = _reduce(caption_costs, similarity.negative_captions, negatives)
    costs = costs + _reduce(image_costs, similarity.negative_images, negatives)
    return costs.mean()


def mined_ranking_loss(
    image_features: Tensor,
    text_features: Tensor,
    mined_features: Tensor,
    owners: Tensor,
    instance_ids: Tensor,
    *,
    margin: float = 1.0,
) -> Tensor:
    """Return :func:`ranking_loss` with a mined caption and a random image as negatives.

    Args:
        mined_features: (n, dim), of a hard caption of another instance for each image.
    """
    similarity = batch_similarity(image_features, text_features, owners, instance_ids)
    hard = (F.normalize(image_features) * F.normalize(mined_features)).sum(dim=1)
    caption_costs = F.relu(margin - similarity.positive + hard[owners])
    image_costs = F.relu(margin - similarity.positive[:, None] + similarity.images)
    return (caption_costs + _reduce(image_costs, similarity.negative_images, "random")).mean()


def _reduce(costs: Tensor, allowed: Tensor, negatives: Negatives) -> Tensor:
    """Reduce costs, (anchors, candidates), to one per anchor; 0 where no candidate is allowed."""
    costs = costs * allowed
    if negatives == "hardest":
        return costs.amax(dim=1)
    if negatives == "all":
        return costs.sum(dim=1) / allowed.sum(dim=1).clamp(min=1)
    drawn = (torch.rand(costs.shape, device=costs.device) * allowed).argmax(dim=1)
    return costs.gather(1, drawn[:, None]).squeeze(1)
