"""Batches of features with known cosines, and random ones."""

import torch

IMAGES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], dtype=torch.float64)
CAPTIONS = torch.tensor([[0.8, 0.6], [0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
# Cosines, captions by images: (0.8, 0.6, 0.96), (0, 1, 0.8), (1, 0, 0.6).
ONE_EACH = torch.arange(3)


def random_batch(seed, *, same_instance=False):
    """Four images, seven captions, their owners, and instances: all different or two the same."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    captions = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    owners = torch.cat([torch.arange(4), torch.randint(4, (3,), generator=generator)])
    instances = torch.tensor([0, 1, 0, 2]) if same_instance else torch.arange(4)
    return images, captions, owners, instances
