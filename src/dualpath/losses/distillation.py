"""What a text path loses by not embedding sentences where its teacher does."""

import torch.nn.functional as F
from torch import Tensor


def distillation_loss(text_features: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of one minus the cosine of features and targets, both (m, dim).

    Example:
        >>> import torch
        >>> distillation_loss(torch.eye(2), torch.tensor([[2.0, 0.0], [1.0, 0.0]]))
        tensor(0.5000)
    """
    return 1 - F.cosine_similarity(text_features, targets).mean()
