"""Instance loss: every image-text group is a class, told apart by one classifier for both paths.

Zheng et al., "Dual-Path Convolutional Image-Text Embeddings with Instance Loss", section 3.3,
eq. 3 to 5.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def instance_loss(
    features: Tensor,
    weight: Tensor,
    instance_ids: Tensor,
    *,
    scale: float | None = None,
) -> Tensor:
    """Cross-entropy of features over all instances.

    Args:
        features: (batch, dim).
        weight: (instances, dim), the shared classifier.
        instance_ids: (batch,) int64; -1 is no class and does not count.
        scale: none for plain linear logits (the paper); else features and weights are normalised
            and their cosine is multiplied by it.

    Returns:
        The mean loss, a scalar; 0 when nothing counts.

    Example:
        >>> features, weight = torch.eye(2), torch.eye(2)
        >>> round(instance_loss(features, weight, torch.tensor([0, 1])).item(), 4)
        0.3133
    """
    if scale is not None:
        features, weight = F.normalize(features), F.normalize(weight)
    logits = F.linear(features, weight) * (1.0 if scale is None else scale)
    total = F.cross_entropy(logits, instance_ids, ignore_index=-1, reduction="sum")
    return total / (instance_ids >= 0).sum().clamp(min=1)


class InstanceClassifier(nn.Module):
    """The shared classifier ``W_share`` and the loss of either path through it.

    Args:
        dim: width of the features.
        class_of: (instances,) int64, the class of each instance: itself in the paper, a cluster
            in its ablation.
        shared: false gives the text path a classifier of its own (ablation).

    Attributes:
        weight: (classes, dim), uniform in +-0.1 sqrt(3 / dim) at first (authors' code).
        text_weight: of the same shape; ``weight`` itself if shared.
    """

    class_of: Tensor

    def __init__(self, dim: int, class_of: Tensor, *, shared: bool = True) -> None:
        super().__init__()
        bound = 0.1 * math.sqrt(3 / dim)
        classes = int(class_of.max()) + 1
        self.register_buffer("class_of", class_of, persistent=False)
        self.weight = nn.Parameter(torch.empty(classes, dim).uniform_(-bound, bound))
        self.own_text_weight: nn.Parameter | None = None
        if not shared:
            self.own_text_weight = nn.Parameter(torch.empty(classes, dim).uniform_(-bound, bound))

    @property
    def text_weight(self) -> Tensor:
        """The classifier of the text path."""
        return self.weight if self.own_text_weight is None else self.own_text_weight

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
            image_ids: (n,) int64, instances; -1 is none. text_ids: (m,) int64.
        """
        image_loss, text_loss = (
            instance_loss(
                F.dropout(features, dropout, self.training),
                weight,
                torch.where(ids < 0, ids, self.class_of[ids]),
                scale=scale,
            )
            for features, weight, ids in (
                (image_features, self.weight, image_ids),
                (text_features, self.text_weight, text_ids),
            )
        )
        return image_loss, text_loss
