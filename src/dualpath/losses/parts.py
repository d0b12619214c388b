"""The loss of an embedding that is several vectors side by side."""

from collections.abc import Callable

import torch
from torch import Tensor


def mean_over_parts(loss: Callable[..., Tensor], parts: int, *features: Tensor) -> Tensor:
    """Return the mean of a loss over the parts of features.

    Parts that are trained by losses of their own err differently, and together less: an ensemble in
    one network (Opitz et al., "BIER: Boosting Independent Embeddings Robustly", ICCV 2017).

    Args:
        loss: of as many arguments as there are features, of any shape.
        parts: into which the columns of each are cut.
        features: each (rows, dim).

    Example:
        >>> mean_over_parts(torch.dist, 2, torch.eye(2), torch.zeros(2, 2))
        tensor(1.)
    """
    if parts == 1:  # the gradient of a chunk is a copy in a tensor of the whole
        return loss(*features)
    chunks = (one.chunk(parts, dim=1) for one in features)
    return torch.stack([loss(*own) for own in zip(*chunks, strict=True)]).mean(dim=0)
