"""Ranking loss and its softmax cousin, over the pictures and captions of a batch.

A batch holds n pictures and m captions; ``owners`` tells which picture each caption was written
for. Pictures and captions of one instance are never each other's negatives.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Negatives = Literal["random", "hardest", "all"]


class _Comparison(NamedTuple):
    """Cosines of a batch, seen from the captions (m, n) and from their owners (m, m)."""

    positive: Tensor  # (m,) each caption with its own picture
    pictures: Tensor  # (m, n) each caption with every picture
    captions: Tensor  # (m, m) each caption's picture with every caption
    other_pictures: Tensor  # (m, n) bool: of another instance
    other_captions: Tensor  # (m, m) bool


def ranking_loss(
    image_features: Tensor,
    text_features: Tensor,
    owners: Tensor,
    instance_ids: Tensor,
    *,
    margin: float = 1.0,
    negatives: Negatives = "random",
) -> Tensor:
    """Hinge loss on cosines, both directions (paper, section 3.4, eq. 6).

    For each caption and its picture: ``max(0, margin - (own - other caption))`` plus
    ``max(0, margin - (own - other picture))``. The others are one drawn at random, the hardest of
    the batch, or all of them (then the mean over them is taken).

    Args:
        image_features: (n, dim). text_features: (m, dim). Both are normalised here.
        owners: (m,) int64, the picture of each caption.
        instance_ids: (n,) int64, the instance of each picture.

    Returns:
        The mean over captions, a scalar. A caption without any negative contributes 0.

    Example:
        >>> pictures = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> captions = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> ranking_loss(pictures, captions, torch.tensor([0, 1]), torch.tensor([0, 1]),
        ...              margin=0.5, negatives="hardest")
        tensor(1.2500)
    """
    seen = _compare(image_features, text_features, owners, instance_ids)
    caption_costs = F.relu(margin - seen.positive[:, None] + seen.captions)
    picture_costs = F.relu(margin - seen.positive[:, None] + seen.pictures)
    costs = _choose(caption_costs, seen.other_captions, negatives)
    costs = costs + _choose(picture_costs, seen.other_pictures, negatives)
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
    """:func:`ranking_loss` with a mined caption for each picture; the other picture is random.

    Args:
        mined_features: (n, dim), of a caption of another instance for each picture.
    """
    seen = _compare(image_features, text_features, owners, instance_ids)
    hard = (F.normalize(image_features) * F.normalize(mined_features)).sum(dim=1)
    caption_costs = F.relu(margin - seen.positive + hard[owners])
    picture_costs = F.relu(margin - seen.positive[:, None] + seen.pictures)
    return (caption_costs + _choose(picture_costs, seen.other_pictures, "random")).mean()


def contrastive_loss(
    image_features: Tensor,
    text_features: Tensor,
    owners: Tensor,
    instance_ids: Tensor,
    *,
    temperature: float = 0.05,
) -> Tensor:
    """Cross-entropy of a caption among the pictures, and of a picture among the captions.

    InfoNCE over cosines divided by ``temperature``, the mean of both directions; other members of
    the same instance are left out of the sums. Arguments and shapes as in :func:`ranking_loss`.
    """
    seen = _compare(image_features, text_features, owners, instance_ids)
    positive = seen.positive[:, None] / temperature
    pictures = (seen.pictures / temperature).masked_fill(~seen.other_pictures, -torch.inf)
    captions = (seen.captions / temperature).masked_fill(~seen.other_captions, -torch.inf)
    from_caption = torch.logsumexp(torch.cat([positive, pictures], dim=1), dim=1)
    from_picture = torch.logsumexp(torch.cat([positive, captions], dim=1), dim=1)
    return (from_caption + from_picture - 2 * positive[:, 0]).mean() / 2


def _compare(images: Tensor, texts: Tensor, owners: Tensor, instance_ids: Tensor) -> _Comparison:
    cosines = F.normalize(texts) @ F.normalize(images).T
    text_instances = instance_ids[owners]
    return _Comparison(
        positive=cosines.gather(1, owners[:, None]).squeeze(1),
        pictures=cosines,
        captions=cosines.T[owners],
        other_pictures=text_instances[:, None] != instance_ids,
        other_captions=text_instances[:, None] != text_instances,
    )


def _choose(costs: Tensor, allowed: Tensor, negatives: Negatives) -> Tensor:
    """Reduce costs, (anchors, candidates), to one an anchor; 0 where no candidate is allowed."""
    costs = costs * allowed
    if negatives == "hardest":
        return costs.amax(dim=1)
    if negatives == "all":
        return costs.sum(dim=1) / allowed.sum(dim=1).clamp(min=1)
    drawn = (torch.rand(costs.shape, device=costs.device) * allowed).argmax(dim=1)
    return costs.gather(1, drawn[:, None]).squeeze(1)
