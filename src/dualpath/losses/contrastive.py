"""In-batch softmax over cosines (InfoNCE)."""

import torch
from torch import Tensor

from dualpath.losses.similarity import batch_similarity


def contrastive_loss(
    image_features: Tensor,
    text_features: Tensor,
    owners: Tensor,
    instance_ids: Tensor,
    *,
    temperature: float = 0.05,
) -> Tensor:
    """Return the cross-entropy of captions among images and of images among captions.

    Cosines are divided by ``temperature``. Other members of the same instance are left out of the
    sums. Used by CLIP (Radford et al., ICML 2021), after van den Oord et al. (2018).

    Args:
        image_features: (n, dim).
        text_features: (m, dim). Both are normalised here.
        owners: (m,) int64, the image of each caption.
        instance_ids: (n,) int64, the instance of each image.

    Returns:
        The mean of both directions over the captions, a scalar.

    >>> eye, numbers = torch.eye(2), torch.arange(2)
    >>> contrastive_loss(eye, eye, numbers, numbers, temperature=1.0)
    tensor(0.3133)
    """
    similarity = batch_similarity(image_features, text_features, owners, instance_ids)
    positive = similarity.positive[:, None] / temperature
    images = (similarity.images / temperature).masked_fill(~similarity.negative_images, -torch.inf)
    captions = (similarity.captions / temperature).masked_fill(
        ~similarity.negative_captions, -torch.inf
    )
    from_caption = torch.logsumexp(torch.cat([positive, images], dim=1), dim=1)
    from_image = torch.logsumexp(torch.cat([positive, captions], dim=1), dim=1)
    return (from_caption + from_image - 2 * positive[:, 0]).mean() / 2
