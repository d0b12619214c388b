"""What both paths share: the authors' batch normalisation and initialisation."""

import math

from torch import nn


def batch_norm(channels: int) -> nn.BatchNorm1d:
    """Batch normalisation of new layers: epsilon 1e-3, running rate 0.05 (authors' code)."""
    return nn.BatchNorm1d(channels, eps=1e-3, momentum=0.05)


def head(features: int, hidden: int, dim: int, dropout: float = 0.0) -> nn.Sequential:
    """Linear, BN, ReLU, linear, BN: what stands between pretrained features and the space.

    Args:
        dropout: of the hidden layer.
    """
    layers = nn.Sequential(
        nn.Linear(features, hidden, bias=False),
        batch_norm(hidden),
        nn.Sequential(nn.ReLU(), nn.Dropout(dropout)),
        nn.Linear(hidden, dim, bias=False),
        batch_norm(dim),
    )
    layers.apply(initialise_linear)
    return layers


def initialise_linear(module: nn.Module) -> None:
    """Uniform in +-sqrt(3 / fan_in), a variance of 1 / fan_in (authors' code)."""
    if isinstance(module, nn.Linear):
        bound = math.sqrt(3 / module.in_features)
        nn.init.uniform_(module.weight, -bound, bound)
