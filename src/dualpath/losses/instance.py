"""Instance loss: every image-text group is a class of one classifier that both encoders share.

Zheng et al., "Dual-Path Convolutional Image-Text Embeddings with Instance Loss", section 3.3,
eq. 3 to 5.
"""

import math
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualpath.distributed.collectives import (
    apply_sharded,
    as_dtensor,
    rank,
    shard_slice,
    world_size,
)
from dualpath.losses.ensemble import mean_over_heads

_CHUNK = 65_536  # rows drawn at a time


def instance_loss(
    features: Tensor,
    weight: Tensor,
    instance_ids: Tensor,
    *,
    logit_scale: float | None = None,
) -> Tensor:
    """Cross-entropy of features over all instances.

    Args:
        features: (batch, dim).
        weight: (instances, dim), the shared classifier.
        instance_ids: (batch,) int64; rows with -1 have no class, and their loss is 0.
        logit_scale: features and weights are normalised and their cosine is multiplied by this
            value. None: plain dot products (the paper).

    Returns:
        The sum of the losses divided by the number of all rows, also of those without a class
        (authors' code), a scalar.

    >>> features, weight = torch.eye(2), torch.eye(2)
    >>> round(instance_loss(features, weight, torch.tensor([0, 1])).item(), 4)
    0.3133
    """
    return _mean(_row_losses(features, weight, instance_ids, logit_scale))


class _Sample(NamedTuple):
    """The classes that take part in a step.

    Every process takes the same number of classes, first those of the batch, so every process
    knows the column of each class of the batch.

    Attributes:
        rows: (width or fewer,) int64, classes of this process, counted within its shard.
        present: sorted classes of the batch.
        each: classes in a shard.
        counts: (world size,) int64, how many of ``present`` each process holds.
        width: classes that each process takes.
        total: classes that all processes take together.
    """

    rows: Tensor
    present: Tensor
    each: int
    counts: Tensor
    width: int
    total: int

    def columns(self, classes: Tensor) -> Tensor:
        """Return the columns of classes among those of the step; -1 stays -1."""
        owners = classes.clamp(min=0) // self.each
        before = self.counts.cumsum(0) - self.counts
        places = torch.searchsorted(self.present, classes) - before[owners]
        return torch.where(classes < 0, classes, owners * self.width + places)


class InstanceClassifier(nn.Module):
    """The shared classifier ``W_share`` of the paper, and the loss of each encoder through it.

    With several processes, each holds a shard of the classes, and the softmax is taken over all of
    them (the backward pass needs :func:`torch.distributed.tensor.parallel.loss_parallel`). The
    classifier therefore need not fit into one machine.

    Args:
        dim: width of the features.
        class_of: (instances,) int64, the class of each instance: itself in the paper, a cluster in
            an ablation.
        shared: false gives the captions a classifier of their own (ablation).
        projection_dim: project features to this width first, for a smaller classifier.
        sample_rate: share of the classes in a step: those of the batch and others drawn at random
            (An et al., "Partial FC", ICCV workshops 2021). Below 1, gradients are sparse.
        num_heads: equal parts of the features, each classified by itself.
        bias: add a number to the logit of each class. It needs a shared classifier of one head
            over all classes.

    Attributes:
        classes: number of classes.
        own: the classes of this process, a slice.
        weight: (own classes, width), initially uniform in +-0.1 sqrt(3 / width) (authors' code).
        own_text_weight: of the same shape; None if shared.
        bias: (own classes, 1), initially 0; None without one.

    Raises:
        ValueError: there are fewer classes than processes, or other options exclude a bias.
    """

    class_of: Tensor

    def __init__(
        self,
        dim: int,
        class_of: Tensor,
        *,
        shared: bool = True,
        projection_dim: int | None = None,
        sample_rate: float = 1.0,
        num_heads: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if bias and not (shared and sample_rate == 1.0 and num_heads == 1):
            raise ValueError("a bias needs a shared classifier of one head over all classes")
        self.register_buffer("class_of", class_of, persistent=False)
        self.classes = int(class_of.max()) + 1
        self.own = shard_slice(self.classes)
        self.sample_rate = sample_rate
        self.num_heads = num_heads
        width = projection_dim or dim
        self.weight = nn.Parameter(self._draw(width))
        self.own_text_weight = None if shared else nn.Parameter(self._draw(width))
        self.projection = nn.Linear(dim, width, bias=False) if projection_dim else None
        self.bias = nn.Parameter(torch.zeros(len(self.weight), 1)) if bias else None

    def _draw(self, width: int) -> Tensor:
        """Draw this process's rows; the values do not depend on the number of processes."""
        bound = 0.1 * math.sqrt(3 / width)
        rows = []
        for start in range(0, self.classes, _CHUNK):
            end = min(start + _CHUNK, self.classes)
            block = torch.empty(end - start, width).uniform_(-bound, bound)
            first, last = max(start, self.own.start), min(end, self.own.stop)
            if first < last:
                rows.append(block[first - start : last - start])
        return torch.cat(rows)

    def row_names(self) -> list[str]:
        """Return the names of the parameters with one row per class."""
        optional = {"own_text_weight": self.own_text_weight, "bias": self.bias}
        return ["weight", *(name for name, values in optional.items() if values is not None)]

    def weights(self) -> list[nn.Parameter]:
        """Return the weights: of the shared classifier, or one for each encoder."""
        return [self.get_parameter(name) for name in self.row_names() if name != "bias"]

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        image_ids: Tensor,
        text_ids: Tensor,
        *,
        logit_scale: float | None = None,
        dropout: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Return the :func:`instance_loss` of images and of captions, each after dropout.

        Args:
            image_features: (n, dim). text_features: (m, dim).
            image_ids: (n,) int64, instances; -1 is none. text_ids: (m,) int64.
            logit_scale: as in :func:`instance_loss`.
            dropout: dropout rate of the features.
        """
        image_classes, text_classes = (
            torch.where(ids < 0, ids, self.class_of[ids]) for ids in (image_ids, text_ids)
        )
        sample = self._sample(torch.cat([image_classes, text_classes]))
        bias = None if self.bias is None else as_dtensor(self.bias, self.classes)

        def row_losses(features: Tensor, weight: Tensor, classes: Tensor) -> Tensor:
            if self.projection is not None:
                features = self.projection(features)
            features = F.dropout(features, dropout, self.training)
            total = self.classes
            if sample is not None:
                weight = F.embedding(sample.rows, weight, sparse=True)
                classes, total = sample.columns(classes), sample.total
            of_part = partial(_row_losses, instance_ids=classes, logit_scale=logit_scale, bias=bias)
            return apply_sharded(
                lambda *both: mean_over_heads(of_part, self.num_heads, *both),
                features,
                as_dtensor(weight, total),
            )

        paths = [(image_features, image_classes), (text_features, text_classes)]
        if self.own_text_weight is None:  # one pass over many classes instead of two
            features, classes = (torch.cat(both) for both in zip(*paths, strict=True))
            losses = row_losses(features, self.weight, classes)
            image_losses, text_losses = losses.tensor_split([len(image_ids)])
        else:
            image_losses, text_losses = (
                row_losses(features, weight, classes)
                for (features, classes), weight in zip(paths, self.weights(), strict=True)
            )
        return _mean(image_losses), _mean(text_losses)

    def _sample(self, present: Tensor) -> "_Sample | None":
        """Draw the classes of a step: those of the batch and others. None: all classes."""
        if self.sample_rate == 1.0 or not self.training:
            return None
        present = torch.unique(present[present >= 0])
        each, others = -(-self.classes // world_size()), world_size() - 1
        counts = torch.bincount(present // each, minlength=world_size())
        width = max(round(self.sample_rate * each), int(counts.max()))
        drawn = torch.randperm(self.own.stop - self.own.start, device=present.device)[:width]
        local = present[present // each == rank()] - self.own.start
        drawn = drawn[~torch.isin(drawn, local)][: len(drawn) - len(local)]
        total = others * width + min(width, self.classes - others * each)
        rows = torch.cat([local, drawn.sort().values])
        return _Sample(rows, present, each, counts, width, total)


def _row_losses(
    features: Tensor,
    weight: Tensor,
    instance_ids: Tensor,
    logit_scale: float | None,
    bias: Tensor | None = None,
) -> Tensor:
    """Return the cross-entropy of each row, (batch,); 0 where the row has no class."""
    logits = _logits(features, weight, logit_scale)
    if bias is not None:
        logits = logits + bias.T
    return F.cross_entropy(logits, instance_ids, ignore_index=-1, reduction="none")


def _mean(row_losses: Tensor) -> Tensor:
    """Return the mean over all rows, (rows,); 0 if there is none."""
    return row_losses.sum() / max(1, len(row_losses))


def _logits(features: Tensor, weight: Tensor, logit_scale: float | None) -> Tensor:
    """Return plain logits or scaled cosines, (batch, classes), in single precision or better."""
    logits = F.linear(features if logit_scale is None else F.normalize(features), weight)
    if logits.dtype in (torch.bfloat16, torch.float16):  # only the product is in reduced precision
        logits = logits.float()
    if logit_scale is None:
        return logits
    # Dividing the logits by the lengths avoids a normalised copy of all classes.
    lengths: Tensor = torch.linalg.vector_norm(weight, dim=1).clamp(min=1e-12)
    return logits * (logit_scale / lengths)
