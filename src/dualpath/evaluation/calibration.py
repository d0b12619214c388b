"""Fitting the curve from cosine to probability on a validation split.

Each caption is used as a query twice: over all images, where the nearest may be its own, and over
all images but its own, where no image is right. A logistic curve (Platt, 1999) through the outcomes
gives the share of nearest images at a cosine that are right, if every second query has no right
image.
"""

import numpy as np
import numpy.typing as npt

from dualpath.inference.calibration import Calibration, logistic
from dualpath.types import IntArray, Mask, Vectors

_BINS = 10
_CHUNK = 1024  # captions


def fit_calibration(
    image_vectors: Vectors,
    text_vectors: Vectors,
    image_instances: IntArray,
    text_instances: IntArray,
) -> Calibration | None:
    """Fit the curve.

    Args:
        image_vectors: (n, dim), unit length.
        text_vectors: (m, dim), unit length.
        image_instances: (n,) instance of each image.
        text_instances: (m,) of each caption.

    Returns:
        None where the curve cannot be fitted: all captions find their image, none does, or the
        cosine is not higher for right images.
    """
    if len(np.unique(image_instances)) < 2:
        return None
    from sklearn.metrics import roc_auc_score

    cosines, right = _outcomes(image_vectors, text_vectors, image_instances, text_instances)
    # Both rows of a caption, with and without its own image, are held out together.
    held_out = np.tile(np.arange(len(text_vectors)) % 2 == 1, 2)
    if len(np.unique(right[held_out])) < 2 or len(np.unique(right[~held_out])) < 2:
        return None
    slope, intercept = _fit(cosines[~held_out], right[~held_out])
    whole = _fit(cosines, right)
    if min(slope, whole[0]) <= 0:
        return None
    probabilities = logistic(slope * cosines[held_out] + intercept)
    error = expected_calibration_error(probabilities, right[held_out])
    auroc = float(roc_auc_score(right[held_out], cosines[held_out]))
    return Calibration(*whole, error, auroc, len(image_vectors))


def expected_calibration_error(probabilities: npt.NDArray[np.floating], outcomes: Mask) -> float:
    """Return the mean distance of probability and frequency over ten bins of equal width.

    >>> expected_calibration_error(np.array([0.95, 0.95]), np.array([True, False]))
    0.45
    """
    bins = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    distances = [
        (bins == b).sum() * abs(probabilities[bins == b].mean() - outcomes[bins == b].mean())
        for b in np.unique(bins)
    ]
    return round(float(sum(distances)) / len(probabilities), 6)


def _outcomes(
    image_vectors: Vectors,
    text_vectors: Vectors,
    image_instances: IntArray,
    text_instances: IntArray,
) -> tuple[Vectors, Mask]:
    """Return the highest cosine of each question, (2 m,), and whether its image is right."""
    best, best_other, right = [], [], []
    for start in range(0, len(text_vectors), _CHUNK):
        part = slice(start, start + _CHUNK)
        cosines = text_vectors[part] @ image_vectors.T
        own = text_instances[part, None] == image_instances
        others = np.where(own, -np.inf, cosines).max(axis=1)
        best.append(cosines.max(axis=1))
        best_other.append(others)
        right.append(best[-1] > others)
    never = np.zeros(len(text_vectors), bool)
    return np.concatenate([*best, *best_other]), np.concatenate([*right, never])


def _fit(cosines: Vectors, outcomes: Mask) -> tuple[float, float]:
    from sklearn.linear_model import LogisticRegression  # takes a second to import

    curve = LogisticRegression(C=1e6).fit(cosines[:, None].astype(np.float64), outcomes)
    return float(curve.coef_[0, 0]), float(curve.intercept_[0])
