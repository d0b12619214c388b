"""Instance loss: every image-text group is a class, told apart by one classifier for both paths.

Zheng et al., "Dual-Path Convolutional Image-Text Embeddings with Instance Loss", section 3.3,
eq. 3 to 5.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def instance_loss(
    features: Tensor,
    weight: Tensor,
    instance_ids: Tensor,
    *,
    scale: float | None = None,
    reduction: Literal["mean", "none"] = "mean",
) -> Tensor:
    """Cross-entropy of features over all instances.

    Args:
        features: (batch, dim).
        weight: (instances, dim), the shared classifier.
        instance_ids: (batch,) int64; -1 is no class and does not count.
        scale: none for plain linear logits (the paper); else features and weights are normalised
            and their cosine is multiplied by it.
        reduction: the mean of what counts, or each.

    Returns:
        The mean loss, a scalar (0 when nothing counts), or (batch,) losses (0 for no class).

    Example:
        >>> features, weight = torch.eye(2), torch.eye(2)
        >>> round(instance_loss(features, weight, torch.tensor([0, 1])).item(), 4)
        0.3133
    """
    if scale is not None:
        features, weight = F.normalize(features), F.normalize(weight)
    logits = F.linear(features, weight) * (1.0 if scale is None else scale)
    losses = F.cross_entropy(logits, instance_ids, ignore_index=-1, reduction="none")
    return losses if reduction == "none" else _mean(losses, instance_ids)


def _mean(losses: Tensor, instance_ids: Tensor) -> Tensor:
    return losses.sum() / (instance_ids >= 0).sum().clamp(min=1)


class InstanceClassifier(nn.Module):
    """The shared classifier ``W_share`` and the loss of either path through it.

    Attributes:
        weight: (instances, dim), uniform in +-0.1 sqrt(3 / dim) at first (authors' code).
    """

    def __init__(self, dim: int, instances: int) -> None:
        super().__init__()
        bound = 0.1 * math.sqrt(3 / dim)
        self.weight = nn.Parameter(torch.empty(instances, dim).uniform_(-bound, bound))

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        image_ids: Tensor,
        text_ids: Tensor,
        *,
        scale: float | None = None,
        dropout: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Return :func:`instance_loss` of both paths, each after dropout.

        Args:
            image_features: (n, dim). text_features: (m, dim).
            image_ids: (n,) int64. text_ids: (m,) int64.
        """
        ids = torch.cat([image_ids, text_ids])
        features = torch.cat([image_features, text_features])
        features = F.dropout(features, dropout, self.training)
        losses = instance_loss(features, self.weight, ids, scale=scale, reduction="none")
        of_images, of_texts = losses[: len(image_ids)], losses[len(image_ids) :]
        return _mean(of_images, image_ids), _mean(of_texts, text_ids)
