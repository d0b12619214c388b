"""From a cosine to the probability that a picture is what a sentence asks for.

A cosine of 0.4 means nothing to a person. Over captioned pictures that were not trained on, each
caption is asked twice: of all pictures, where the nearest may be its own, and of all but its own,
where nothing matches. A logistic curve through the outcomes (Platt, 1999) tells what share of
nearest pictures with such a cosine is right, where every second sentence has no picture at all.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_BINS = 10
_CHUNK = 1024


@dataclass(frozen=True)
class Calibration:
    """A logistic curve over cosines, and how far it can be trusted.

    Attributes:
        slope, intercept: of the log odds.
        error: expected calibration error, mean distance of probability and share in ten bins.
        auroc: chance that a sentence with a right nearest picture has a higher cosine than one
            without. Both are of captions that the curve was not fitted to.
        pictures: of the split it was fitted on. A gallery of many more holds more that is alike.
    """

    slope: float
    intercept: float
    error: float
    auroc: float
    pictures: int

    def probability(self, cosine: float) -> float:
        """Return the probability that a picture of this cosine is the right one.

        >>> Calibration(10.0, -5.0, error=0.0, auroc=1.0, pictures=9).probability(0.5)
        0.5
        """
        return float(_logistic(self.slope * cosine + self.intercept))


def fit_calibration(
    image_vectors: npt.NDArray[np.float32],
    text_vectors: npt.NDArray[np.float32],
    image_instances: npt.NDArray[np.int64],
    text_instances: npt.NDArray[np.int64],
) -> Calibration | None:
    """Fit the curve; none where all sentences find their picture, or none does, or by chance.

    Args:
        image_vectors: (n, dim), unit. text_vectors: (m, dim), unit.
        image_instances: (n,) of the pictures. text_instances: (m,) of the captions.
    """
    if len(np.unique(image_instances)) < 2:
        return None
    from sklearn.metrics import roc_auc_score

    cosines, right = _outcomes(image_vectors, text_vectors, image_instances, text_instances)
    # Two rows a caption, one asked of all pictures and one without its own: both go together.
    held_out = np.tile(np.arange(len(text_vectors)) % 2 == 1, 2)
    if len(np.unique(right[held_out])) < 2 or len(np.unique(right[~held_out])) < 2:
        return None
    slope, intercept = _fit(cosines[~held_out], right[~held_out])
    whole = _fit(cosines, right)
    if min(slope, whole[0]) <= 0:
        return None
    probabilities = _logistic(slope * cosines[held_out] + intercept)
    error = expected_calibration_error(probabilities, right[held_out])
    auroc = float(roc_auc_score(right[held_out], cosines[held_out]))
    return Calibration(*whole, error, auroc, len(image_vectors))


def expected_calibration_error(
    probabilities: npt.NDArray[np.floating], outcomes: npt.NDArray[np.bool_]
) -> float:
    """Return the mean distance of probability and share over ten bins of equal width.

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
    image_vectors: npt.NDArray[np.float32],
    text_vectors: npt.NDArray[np.float32],
    image_instances: npt.NDArray[np.int64],
    text_instances: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return the highest cosine of each question, (2 m,), and whether it was that of its own."""
    best, best_other, right = [], [], []
    for start in range(0, len(text_vectors), _CHUNK):
        part = slice(start, start + _CHUNK)
        cosines = text_vectors[part] @ image_vectors.T
        own = text_instances[part, None] == image_instances
        others = np.where(own, -np.inf, cosines).max(axis=1)
        best.append(cosines.max(axis=1))
        best_other.append(others)
        right.append(best[-1] > others)
    nothing = np.zeros(len(text_vectors), bool)
    return np.concatenate([*best, *best_other]), np.concatenate([*right, nothing])


def _logistic(x: Any) -> Any:
    return 0.5 + 0.5 * np.tanh(0.5 * x)  # 1 / (1 + exp(-x)) overflows


def _fit(cosines: npt.NDArray[np.float32], outcomes: npt.NDArray[np.bool_]) -> tuple[float, float]:
    from sklearn.linear_model import LogisticRegression  # a second to import, for training alone

    curve = LogisticRegression(C=1e6).fit(cosines[:, None].astype(np.float64), outcomes)
    return float(curve.coef_[0, 0]), float(curve.intercept_[0])
