"""Losses of an embedding that consists of several vectors side by side."""

from collections.abc import Callable

import torch
from torch import Tensor


def mean_over_heads(loss: Callable[..., Tensor], num_heads: int, *features: Tensor) -> Tensor:
    """Return the mean of a loss over the heads of an embedding.

    Heads with losses of their own make different errors, and their ensemble makes fewer (Opitz et
    al., "BIER: Boosting Independent Embeddings Robustly", ICCV 2017).

    Args:
        loss: takes as many tensors as there are ``features``.
        num_heads: number of equal parts into which the columns are divided.
        features: each (rows, dim).

    >>> mean_over_heads(torch.dist, 2, torch.eye(2), torch.zeros(2, 2))
    tensor(1.)
    """
    if num_heads == 1:  # the gradient of a chunk would be a copy in a tensor of the whole
        return loss(*features)
    chunks = (one.chunk(num_heads, dim=1) for one in features)
    return torch.stack([loss(*own) for own in zip(*chunks, strict=True)]).mean(dim=0)
