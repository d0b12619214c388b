"""Instance loss: every image-text group is a class, told apart by one classifier for both paths.

Zheng et al., "Dual-Path Convolutional Image-Text Embeddings with Instance Loss", section 3.3,
eq. 3 to 5.
"""

import math
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualpath.losses.parts import mean_over_parts
from dualpath.processes import as_one, block, of_all, processes, rank

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
    return _mean(_row_losses(features, weight, instance_ids, scale), instance_ids)


class _Sample(NamedTuple):
    """The classes of a step: of each process as many, first its own of the batch.

    So every process knows in which column a class of the batch is, whoever holds it.

    rows: (width or fewer,) int64, those of this process, counted within its block.
    present: sorted classes of the batch. each: the classes of a process. counts: (processes,)
    int64, how many of ``present`` each has. total: of the rows of all.
    """

    rows: Tensor
    present: Tensor
    each: int
    counts: Tensor
    width: int
    total: int

    def columns(self, classes: Tensor) -> Tensor:
        """Return the columns of classes among the rows of all processes; -1 stays."""
        owners = classes.clamp(min=0) // self.each
        before = self.counts.cumsum(0) - self.counts
        places = torch.searchsorted(self.present, classes) - before[owners]
        return torch.where(classes < 0, classes, owners * self.width + places)


class InstanceClassifier(nn.Module):
    """The shared classifier ``W_share`` and the loss of either path through it.

    Where several processes train, each holds a block of the classes, and the softmax is taken over
    all of them (under :func:`torch.distributed.tensor.parallel.loss_parallel`, backward pass
    included): the classifier need not fit into one machine.

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
        classes: how many there are. own: those of this process.
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
        self.own = block(self.classes)
        self.fraction = fraction
        self.parts = parts
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
            first, last = max(start, self.own.start), min(end, self.own.stop)
            if first < last:
                rows.append(block[first - start : last - start])
        return torch.cat(rows)

    def row_names(self) -> list[str]:
        """The names of the parameters that hold a row a class."""
        return ["weight"] + ([] if self.own_text_weight is None else ["own_text_weight"])

    def weights(self) -> list[nn.Parameter]:
        """Those parameters: the shared classifier alone, or the one of each path."""
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
        sample = self._sample(torch.cat([image_classes, text_classes]))

        def row_losses(features: Tensor, weight: Tensor, classes: Tensor) -> Tensor:
            if self.projection is not None:
                features = self.projection(features)
            features = F.dropout(features, dropout, self.training)
            total = self.classes
            if sample is not None:
                weight = F.embedding(sample.rows, weight, sparse=True)
                classes, total = sample.columns(classes), sample.total
            of_part = partial(_row_losses, instance_ids=classes, scale=scale)
            return as_one(
                lambda *both: mean_over_parts(of_part, self.parts, *both),
                features,
                of_all(weight, total),
            )

        paths = [(image_features, image_classes), (text_features, text_classes)]
        if self.own_text_weight is None:  # a pass over the classes costs more than its rows
            features, classes = (torch.cat(both) for both in zip(*paths, strict=True))
            losses = row_losses(features, self.weight, classes)
            image_losses, text_losses = losses.tensor_split([len(image_ids)])
        else:
            image_losses, text_losses = (
                row_losses(features, weight, classes)
                for (features, classes), weight in zip(paths, self.weights(), strict=True)
            )
        return _mean(image_losses, image_classes), _mean(text_losses, text_classes)

    def _sample(self, present: Tensor) -> "_Sample | None":
        """Draw the classes of a step: those of the batch and others; none: all of them."""
        if self.fraction == 1.0 or not self.training:
            return None
        present = torch.unique(present[present >= 0])
        each, others = -(-self.classes // processes()), processes() - 1
        counts = torch.bincount(present // each, minlength=processes())
        width = max(round(self.fraction * each), int(counts.max()))
        drawn = torch.randperm(self.own.stop - self.own.start, device=present.device)[:width]
        local = present[present // each == rank()] - self.own.start
        drawn = drawn[~torch.isin(drawn, local)][: len(drawn) - len(local)]
        total = others * width + min(width, self.classes - others * each)
        rows = torch.cat([local, drawn.sort().values])
        return _Sample(rows, present, each, counts, width, total)


def _row_losses(
    features: Tensor, weight: Tensor, instance_ids: Tensor, scale: float | None
) -> Tensor:
    """Return the cross-entropy of each row, (batch,); 0 where it has no class."""
    logits = _logits(features, weight, scale)
    return F.cross_entropy(logits, instance_ids, ignore_index=-1, reduction="none")


def _mean(row_losses: Tensor, classes: Tensor) -> Tensor:
    """Return the mean of those that have a class."""
    mean: Tensor = row_losses.sum() / (classes >= 0).sum().clamp(min=1)
    return mean


def _logits(features: Tensor, weight: Tensor, scale: float | None) -> Tensor:
    """Return plain logits or scaled cosines, (batch, classes), in single precision at least."""
    logits = F.linear(features if scale is None else F.normalize(features), weight)
    if logits.dtype in (torch.bfloat16, torch.float16):  # the product alone is taken in less
        logits = logits.float()
    if scale is None:
        return logits
    # Lengths are divided out of the logits: a normalised copy of the classes is far larger.
    lengths: Tensor = torch.linalg.vector_norm(weight, dim=1).clamp(min=1e-12)
    return logits * (scale / lengths)
