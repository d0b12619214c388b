"""Hashes of weights: embeddings of models with different weights cannot be compared."""

import hashlib

import torch
from torch import nn


def fingerprint(network: nn.Module) -> str:
    """Return a hash of all weights, 32 hexadecimal digits."""
    return digest_weights(network, size=16).hexdigest()


def digest_weights(module: nn.Module, *, size: int) -> "hashlib.blake2b":
    """Return a hash of ``size`` bytes of a module's weights, to which more data may be added."""
    digest = hashlib.blake2b(digest_size=size)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest
