"""From a cosine similarity to the probability that an image fits a query.

The curve is fitted in :mod:`dualpath.evaluation.calibration`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_OLD_NAMES = {"pictures": "images"}  # of bundles before 0.2


@dataclass(frozen=True)
class Calibration:
    """A logistic curve over cosines (Platt, 1999), and its measured quality.

    Attributes:
        slope, intercept: of the log odds.
        error: expected calibration error: mean distance of probability and frequency in ten bins.
        auroc: probability that a query whose nearest image is right has a higher cosine than a
            query whose nearest image is wrong. Both are measured on captions held out of the fit.
        images: size of the split of the fit. A much larger gallery holds more similar images, and
            the true probabilities are then lower.
    """

    slope: float
    intercept: float
    error: float
    auroc: float
    images: int

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Any]) -> "Calibration":
        """Read a calibration from the metrics of a bundle."""
        return cls(**{_OLD_NAMES.get(name, name): value for name, value in metrics.items()})

    def probability(self, cosine: float) -> float:
        """Return the probability that the nearest image, at this cosine, is the right one.

        >>> Calibration(10.0, -5.0, error=0.0, auroc=1.0, images=9).probability(0.5)
        0.5
        """
        return float(logistic(self.slope * cosine + self.intercept))


def logistic(x: Any) -> Any:
    """Return 1 / (1 + exp(-x)) without overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * x)
