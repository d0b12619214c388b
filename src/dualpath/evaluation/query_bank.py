"""Re-ranking by a bank of queries (querybank normalisation).

In high dimensions some images, called hubs, are near to very many captions and displace the right
ones. A bank of queries shows how near each image is to queries in general, and that amount is
subtracted from its scores. The method is the inverted softmax of Smith et al. (ICLR 2017), applied
to retrieval by Bogolin et al., "Cross Modal Retrieval with Querybank Normalisation" (CVPR 2022).
"""

import numpy as np

from dualpath.types import Vectors

TEMPERATURE = 0.05  # Bogolin et al. take 1/20
_CHUNK = 1024


def normalise_by_bank(
    image_vectors: Vectors,
    text_vectors: Vectors,
    bank_images: Vectors,
    bank_texts: Vectors,
    temperature: float = TEMPERATURE,
) -> tuple[Vectors, Vectors]:
    """Return vectors, (n, dim + 2) and (m, dim + 2), whose dot products are the new scores.

    The score of an image is reduced by its nearness to the captions of the bank,
    ``temperature * log mean exp(cosine / temperature)``, and that of a caption by its nearness to
    the images of the bank. The reduction on the query's own side is constant for a query, so the
    same two arrays serve both directions.

    Args:
        image_vectors: (n, dim) unit vectors; text_vectors: (m, dim).
        bank_images, bank_texts: the queries of each kind, of the same dim.

    Example:
        >>> hub, other = np.array([0.8, 0.6]), np.array([1.0, 0.0])
        >>> caption = np.array([[0.98, 0.2]])
        >>> images, texts = normalise_by_bank(
        ...     np.array([hub, other]), caption, other[None], np.array([hub, hub, caption[0]]))
        >>> int((images @ texts.T).argmax())
        1
    """
    off_images = _nearness(image_vectors, bank_texts, temperature)
    off_texts = _nearness(text_vectors, bank_images, temperature)
    images = np.column_stack([image_vectors, -off_images, np.ones_like(off_images)])
    texts = np.column_stack([text_vectors, np.ones_like(off_texts), -off_texts])
    return images.astype(np.float32), texts.astype(np.float32)


def _nearness(vectors: Vectors, bank: Vectors, temperature: float) -> Vectors:
    near = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), _CHUNK):
        scores = vectors[start : start + _CHUNK] @ bank.T / temperature
        highest = scores.max(axis=1)
        mean = np.exp(scores - highest[:, None]).mean(axis=1)
        near[start : start + _CHUNK] = temperature * (highest + np.log(mean))
    return near
