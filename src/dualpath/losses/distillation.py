"""Distillation: the text encoder learns the embeddings of a teacher."""

import torch.nn.functional as F
from torch import Tensor


def distillation_loss(text_features: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of one minus the cosine of features and targets, both (m, dim).

    >>> import torch
    >>> distillation_loss(torch.eye(2), torch.tensor([[2.0, 0.0], [1.0, 0.0]]))
    tensor(0.5000)
    """
    return 1 - F.cosine_similarity(text_features, targets).mean()
