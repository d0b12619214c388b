"""Re-ranking by a bank of queries: what is near to every query counts for less.

In high dimensions some pictures (hubs) are near to a great many captions and stand in the way of
others. With a bank of queries it is known how near each is to all of them, and that is taken off
its score: the inverted softmax of Smith et al. (ICLR 2017), for retrieval Bogolin et al.,
"Cross Modal Retrieval with Querybank Normalisation" (CVPR 2022).
"""

import numpy as np

from dualpath.vectors import Vectors

TEMPERATURE = 0.05  # Bogolin et al. take 1/20
_CHUNK = 1024


def normalise_by_bank(
    image_vectors: Vectors,
    text_vectors: Vectors,
    bank_images: Vectors,
    bank_texts: Vectors,
    temperature: float = TEMPERATURE,
) -> tuple[Vectors, Vectors]:
    """Return vectors, (n, dim + 2) and (m, dim + 2), whose dot products rank by the bank as well.

    What is taken off the score of a picture is how near it is to the captions of the bank,
    ``temperature * log mean exp(cosine / temperature)``, and of a caption how near it is to its
    pictures. Either is the same for all that a query is compared with on the query's own side, so
    one pair of arrays serves both directions.

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
