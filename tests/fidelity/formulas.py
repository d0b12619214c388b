"""Weights and inputs that the authors' code was run with: hashes of positions, not random."""

import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

PRIME = 16_777_213
LENGTHS = {32: (1, 32, 5, 12, 3, 20, 8, 31), 56: (1, 56, 7, 23, 3, 40, 14, 55)}
SENTENCES = 8
BATCHES = 3


def uniform(shape: tuple[int, ...], seed: int) -> Any:
    """Return numbers in (0, 1), float64, by integer arithmetic that is exact everywhere."""
    index = np.arange(math.prod(shape), dtype=np.int64)
    mixed = np.mod(index + 7919 * seed, PRIME)
    mixed = np.mod(mixed**2 + 12345, PRIME)
    mixed = np.mod(mixed**2 + 31 * index + 1, PRIME)
    return np.reshape((mixed + 0.5) / PRIME, shape)


def parameter(name: str, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor of ``DualEncoder.state_dict()``, or ``classifier.weight``."""
    share = uniform(shape, zlib.crc32(name.encode()) % 2000)
    signed = 2 * share - 1
    last = name.rpartition(".")[2]
    if last == "running_mean":
        value = share - 0.5
    elif last == "running_var":
        value = (0.5 + share) ** 2 - 1e-3
    elif name.endswith("embedding.weight"):
        value = 0.5 * signed
        value[0] = 0  # padding
    elif last == "embedding_bias":
        value = 0.2 * signed
    elif len(shape) == 2:
        value = signed * math.sqrt(3 / shape[1])
    else:
        value = share + 0.5 if last == "weight" else share - 0.5
    return torch.from_numpy(value)


@dataclass(frozen=True)
class Inputs:
    """A batch of eight images and eight captions.

    Attributes:
        pooled: (8, 2048), the backbone's output. token_ids: (8, max_words), left-aligned.
        starts: (8,), the position of each caption. instance_ids: (8,).
        keep: (16, 2048) in (0, 1): dropout keeps a feature where this is at least the rate. The
            first eight rows are of images.
    """

    pooled: Tensor
    token_ids: Tensor
    starts: Tensor
    instance_ids: Tensor
    keep: Tensor

    def mask(self, rate: float) -> Tensor:
        """Return what dropout multiplies the features by."""
        return (self.keep >= rate).double() / (1 - rate)


def inputs(number: int, max_words: int, vocabulary: int, classes: int) -> Inputs:
    """Return batch ``number``."""
    seed, lengths = 3000 + 100 * number, np.array(LENGTHS[max_words])
    words = 1 + np.floor(vocabulary * uniform((SENTENCES, max_words), seed + 2)).astype(np.int64)
    words[np.arange(max_words) >= lengths[:, None]] = 0
    starts = np.floor(uniform((SENTENCES,), seed + 3) * (max_words + 1 - lengths))
    keep = uniform((2, SENTENCES, 2048), seed + 4)
    return Inputs(
        pooled=torch.from_numpy(2 * uniform((SENTENCES, 2048), seed + 1)),
        token_ids=torch.from_numpy(words),
        starts=torch.from_numpy(starts.astype(np.int64)),
        instance_ids=(torch.arange(SENTENCES) * 5 + 2 + 40 * number) % classes,
        keep=torch.from_numpy(keep.reshape(-1, 2048)),
    )
