"""Instance loss: every image-text group is a class, told apart by one classifier for both paths.

Zheng et al., "Dual-Path Convolutional Image-Text Embeddings with Instance Loss", section 3.3,
eq. 3 to 5.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributed as dist

from dualpath.losses.parts import mean_over_parts
from dualpath.processes import (
    gather_shares,
    max_over_processes,
    processes,
    share,
    sum_over_processes,
)

_DRAWN = 65_536  # rows drawn at a time


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
    logits = _logits(features, weight, scale)
    total = F.cross_entropy(logits, instance_ids, ignore_index=-1, reduction="sum")
    return total / (instance_ids >= 0).sum().clamp(min=1)


class InstanceClassifier(nn.Module):
    """The shared classifier ``W_share`` and the loss of either path through it.

    Where several processes train, each holds its share of the classes, and the softmax is taken
    over all of them: the classifier need not fit into one machine.

    Args:
        dim: width of the features.
        class_of: (instances,) int64, the class of each instance: itself in the paper, a cluster
            in its ablation.
        shared: false gives the text path a classifier of its own (ablation).
        projection: project features to so many numbers first, which makes the classifier smaller.
        fraction: of the classes, so many are in a step: those of the batch, and others drawn at
            random (An et al., "Partial FC", ICCV workshops 2021). Gradients are then sparse.
        parts: of features and classifier, each of which tells the classes apart by itself.

    Attributes:
        weight: (own classes, width), uniform in +-0.1 sqrt(3 / width) at first (authors' code).
        own_text_weight: of the same shape; none if shared.

    Raises:
        ValueError: there are fewer classes than processes.
    """

    class_of: Tensor

    def __init__(
        self,
        dim: int,
        class_of: Tensor,
        *,
        shared: bool = True,
        projection: int | None = None,
        fraction: float = 1.0,
        parts: int = 1,
    ) -> None:
        super().__init__()
        self.register_buffer("class_of", class_of, persistent=False)
        self.classes = int(class_of.max()) + 1
        if self.classes < processes():
            raise ValueError(f"{self.classes} classes cannot be shared by {processes()} processes")
        self.fraction = fraction
        self.parts = parts
        self._own = share(self.classes)
        width = projection or dim
        self.weight = nn.Parameter(self._draw(width))
        self.own_text_weight = None if shared else nn.Parameter(self._draw(width))
        self.projection = nn.Linear(dim, width, bias=False) if projection else None

    def _draw(self, width: int) -> Tensor:
        """Draw this process's rows; every number of processes draws the same numbers."""
        bound = 0.1 * math.sqrt(3 / width)
        rows = []
        for start in range(0, self.classes, _DRAWN):
            end = min(start + _DRAWN, self.classes)
            block = torch.empty(end - start, width).uniform_(-bound, bound)
            first, last = max(start, self._own.start), min(end, self._own.stop)
            if first < last:
                rows.append(block[first - start : last - start])
        return torch.cat(rows)

    @property
    def text_weight(self) -> Tensor:
        """The classifier of the text path."""
        return self.weight if self.own_text_weight is None else self.own_text_weight

    def row_names(self) -> list[str]:
        """The names of the parameters that hold a row a class."""
        return ["weight"] + ([] if self.own_text_weight is None else ["own_text_weight"])

    def weights(self) -> list[nn.Parameter]:
        """Those parameters."""
        return [self.get_parameter(name) for name in self.row_names()]

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
        image_classes, text_classes = (
            torch.where(ids < 0, ids, self.class_of[ids]) for ids in (image_ids, text_ids)
        )
        rows = self._sample(torch.cat([image_classes, text_classes]))
        return (
            self._loss(image_features, self.weight, image_classes, rows, scale, dropout),
            self._loss(text_features, self.text_weight, text_classes, rows, scale, dropout),
        )

    def _sample(self, present: Tensor) -> Tensor | None:
        """Return the own rows of a step, sorted: those of the batch and others; none: all."""
        rows = self._own.stop - self._own.start
        if self.fraction == 1.0 or not self.training:
            return None
        local = present - self._own.start
        local = local[(local >= 0) & (local < rows)].unique()
        drawn = torch.randperm(rows, device=present.device)[: round(self.fraction * rows)]
        others = drawn[~torch.isin(drawn, local)][: max(0, len(drawn) - len(local))]
        return torch.cat([local, others]).sort().values

    def _loss(
        self,
        features: Tensor,
        weight: Tensor,
        classes: Tensor,
        rows: Tensor | None,
        scale: float | None,
        dropout: float,
    ) -> Tensor:
        if self.projection is not None:
            features = self.projection(features)
        features = F.dropout(features, dropout, self.training)
        if rows is None and processes() == 1:
            loss = partial(instance_loss, instance_ids=classes, scale=scale)
            return mean_over_parts(loss, self.parts, features, weight)
        local = classes - self._own.start
        here = (local >= 0) & (local < len(weight))
        if rows is not None:
            weight = F.embedding(rows, weight, sparse=True)
            local = torch.searchsorted(rows, local)
        count = (classes >= 0).sum()
        loss = partial(_softmax_loss, columns=local.where(here, -1), count=count, scale=scale)
        return mean_over_parts(loss, self.parts, features, weight)

    def share_gradients(self) -> None:
        """Make the gradients those of one loss, after the backward pass of all processes."""
        if processes() == 1:
            return
        for weight in self.weights():
            if weight.grad is not None:
                weight.grad = weight.grad / processes()
        if self.projection is not None and self.projection.weight.grad is not None:
            dist.all_reduce(self.projection.weight.grad)
            self.projection.weight.grad /= processes()

    def gathered_rows(self, own: Tensor) -> Tensor:
        """Put together what every process holds for its classes, (classes, ...)."""
        return gather_shares(own.detach(), self.classes)

    def own_rows(self, everything: Tensor) -> Tensor:
        """Return what of (classes, ...) is this process's."""
        return everything[self._own].clone()


def _logits(features: Tensor, weight: Tensor, scale: float | None) -> Tensor:
    """Return plain logits or scaled cosines, (batch, classes), in single precision at least."""
    if scale is not None:
        features, weight = F.normalize(features), F.normalize(weight)
    logits = F.linear(features, weight)
    if logits.dtype in (torch.bfloat16, torch.float16):  # the product alone is taken in less
        logits = logits.float()
    return logits * (1.0 if scale is None else scale)


def _softmax_loss(
    features: Tensor, weight: Tensor, *, columns: Tensor, count: Tensor, scale: float | None
) -> Tensor:
    """:func:`instance_loss` whose classes are spread over the processes.

    Args:
        features: (batch, dim). weight: (classes of this process, dim).
        columns: (batch,) int64, the column of each row's class; -1: another process has it.
        count: rows that have a class at all.
    """
    logits = _logits(features, weight, scale)
    highest = max_over_processes(logits.detach().amax(dim=1))
    powers = sum_over_processes((logits - highest[:, None]).exp().sum(dim=1))
    own = logits.gather(1, columns.clamp(min=0)[:, None])[:, 0] * (columns >= 0)
    found = sum_over_processes((columns >= 0).to(logits.dtype)) > 0
    losses = highest + powers.log() - sum_over_processes(own)
    return (losses * found).sum() / count.clamp(min=1)
