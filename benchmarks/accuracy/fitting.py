"""Training a system for a number of seconds, and measuring it."""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peer_data import SplitData, split_cells
from systems import Row, System
from torch import Tensor

from dualpath.data.table import instance_numbers
from dualpath.evaluation.protocols import evaluate_all
from dualpath.types import IntArray

BATCH, CAPTIONS = 128, 2  # images, and captions of each
WARM_UP = 0.03  # share of the seconds
WEIGHT_DECAY = 0.05
MAX_GRADIENT = 2.0


@dataclass(frozen=True)
class Budget:
    """How a system is trained.

    Attributes:
        seconds: of this process. lr: the highest learning rate. seed: of the batches.
    """

    seconds: float
    lr: float
    seed: int

    def lr_at(self, share: float) -> float:
        """Return the learning rate after a share of the seconds: warm-up, then cosine."""
        warm_up = min(1, share / WARM_UP + 1e-3)
        return self.lr * warm_up * 0.5 * (1 + math.cos(math.pi * share))


def fit(
    system: System, row: Row, data: SplitData, picked: IntArray, budget: Budget, unknown: int
) -> float:
    """Train a system until its seconds are over, and return the number of epochs.

    Args:
        picked: the training images, numbers of ``data.images``.
        unknown: token id of ``[UNK]``.
    """
    steps_per_epoch = len(picked) // BATCH
    if steps_per_epoch == 0:
        raise SystemExit(f"{len(picked)} training images are fewer than a batch of {BATCH}")
    optimizers, dense = _build_optimizers(system, budget.lr)
    system.train()
    steps = 0
    start = time.process_time()
    while True:
        order = np.random.default_rng((budget.seed, steps)).permutation(picked)
        for first in range(0, steps_per_epoch * BATCH, BATCH):
            share = (time.process_time() - start) / budget.seconds
            if share >= 1:
                return round(steps / steps_per_epoch, 1)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = budget.lr_at(share)
            generator = np.random.default_rng((budget.seed, steps))
            loss = _batch_loss(system, row, data, order[first : first + BATCH], generator, unknown)
            system.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(dense, MAX_GRADIENT)
            for optimizer in optimizers:
                optimizer.step()
            steps += 1


def _build_optimizers(
    system: System, lr: float
) -> tuple[list[torch.optim.Optimizer], list[torch.nn.Parameter]]:
    """Return the optimisers, and the parameters whose gradients are dense."""
    sparse = system.sparse_parameters()
    dense = [p for p in system.parameters() if all(p is not other for other in sparse)]
    groups = [
        {"params": [p for p in dense if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in dense if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=lr, fused=True)]
    if sparse:
        optimizers.append(torch.optim.SparseAdam(sparse, lr=lr))
    return optimizers, dense


def _batch_loss(
    system: System,
    row: Row,
    data: SplitData,
    images: IntArray,
    generator: np.random.Generator,
    unknown: int,
) -> Tensor:
    captions = [generator.permutation(data.table.captions_of(int(i)))[:CAPTIONS] for i in images]
    token_ids = data.tokens_of(np.concatenate(captions))
    if row.word_dropout:
        dropped = torch.rand(token_ids.shape) < row.word_dropout
        token_ids = token_ids.masked_fill(dropped & (token_ids != 0), unknown)
    owners = np.repeat(np.arange(len(images)), [len(of_image) for of_image in captions])
    features = data.source.draw(images, int(generator.integers(2**31)), slice(0, len(images)))
    with torch.autocast("cpu", torch.bfloat16):
        image_features = system.image_encoder(split_cells(features, row.grid))
        text_features = system.text_encoder(token_ids)
    return system.loss(
        image_features.float(),
        text_features.float(),
        torch.from_numpy(owners),
        torch.from_numpy(data.table.instance_ids[images]),
    )


@torch.no_grad()
def measure(system: System, row: Row, data: SplitData, picked: IntArray) -> dict[str, Any]:
    """Measure retrieval on some images; the vector of an image is the mean of its two views."""
    system.eval()
    views = []
    for features, rows in zip(data.source.features, data.source.rows, strict=True):
        parts = np.array_split(picked, math.ceil(len(picked) / 200))
        cells = (split_cells(torch.from_numpy(features[rows[p]]), row.grid) for p in parts)
        views.append(torch.cat([F.normalize(system.image_encoder(part)) for part in cells]))
    images = F.normalize(torch.stack(views).sum(dim=0))
    captions = np.concatenate([data.table.captions_of(int(i)) for i in picked])
    parts = np.array_split(captions, math.ceil(len(captions) / 500))
    texts = torch.cat([F.normalize(system.text_encoder(data.tokens_of(p))) for p in parts])
    instances = instance_numbers(data.images.take(picked))
    return evaluate_all(images.numpy(), texts.numpy(), *instances).to_dict()
