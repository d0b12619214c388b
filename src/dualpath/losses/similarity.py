"""Cosines of a batch of images and captions, which ranking and contrastive losses compare.

A batch holds n images and m captions; ``owners`` is the image of each caption. Images and captions
of one instance are never negatives of each other.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class BatchSimilarity(NamedTuple):
    """Cosines of a batch, for each caption and for the image of each caption.

    Attributes:
        positive: (m,) each caption with its own image.
        images: (m, n) each caption with every image.
        captions: (m, m) each caption's image with every caption.
        negative_images: (m, n) bool, images of another instance.
        negative_captions: (m, m) bool, captions of another instance.
    """

    positive: Tensor
    images: Tensor
    captions: Tensor
    negative_images: Tensor
    negative_captions: Tensor


def batch_similarity(
    image_features: Tensor, text_features: Tensor, owners: Tensor, instance_ids: Tensor
) -> BatchSimilarity:
    """Compare the images and captions of a batch.

    Args:
        image_features: (n, dim).
        text_features: (m, dim). Both are normalised here.
        owners: (m,) int64, the image of each caption.
        instance_ids: (n,) int64, the instance of each image.

    >>> import torch
    >>> eye, numbers = torch.eye(2), torch.arange(2)
    >>> batch_similarity(eye, eye, numbers, numbers).positive
    tensor([1., 1.])
    """
    cosines = F.normalize(text_features) @ F.normalize(image_features).T
    text_instances = instance_ids[owners]
    return BatchSimilarity(
        positive=cosines.gather(1, owners[:, None]).squeeze(1),
        images=cosines,
        captions=cosines.T[owners],
        negative_images=text_instances[:, None] != instance_ids,
        negative_captions=text_instances[:, None] != text_instances,
    )
