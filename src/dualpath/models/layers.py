"""What both paths share: the authors' batch normalisation and initialisation."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dualpath.processes import processes, sum_over_processes

_RUNNING_RATE = 0.05


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation whose batch is that of all processes which train together.

    torch's own (SyncBatchNorm) needs GPUs.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (rows, channels); the rows of a process may be more or fewer than others'."""
        if not self.training or processes() == 1:
            return super().forward(x)
        x = x.to(self.weight.dtype)  # under mixed precision the statistics are kept in full
        rows = sum_over_processes(x.new_tensor(float(len(x))))
        mean = sum_over_processes(x.sum(dim=0)) / rows
        centred = x - mean
        variance = sum_over_processes(centred.square().sum(dim=0)) / rows
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.running_mean.lerp_(mean, _RUNNING_RATE)
            self.running_var.lerp_(variance * rows / (rows - 1), _RUNNING_RATE)
            self.num_batches_tracked += 1
        return centred * (variance + self.eps).rsqrt() * self.weight + self.bias


def batch_norm(channels: int) -> BatchNorm:
    """Batch normalisation of new layers: epsilon 1e-3, running rate 0.05 (authors' code)."""
    return BatchNorm(channels, eps=1e-3, momentum=_RUNNING_RATE)


class SideBySide(nn.ModuleList):
    """Modules that see the same; what they give stands side by side, (batch, sum of widths)."""

    def forward(self, x: Tensor) -> Tensor:
        """Call all of them."""
        return torch.cat([module(x) for module in self], dim=1)


def head(
    features: int, hidden: int, dim: int, *, dropout: float = 0.0, parts: int = 1
) -> nn.Module:
    """Linear, BN, ReLU, linear, BN: what stands between pretrained features and the space.

    Args:
        dropout: of the hidden layer.
        parts: of the output, each with layers of its own.
    """
    if parts > 1:
        own = (head(features, hidden, dim // parts, dropout=dropout) for _ in range(parts))
        return SideBySide(own)
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


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode, and back as it was."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
