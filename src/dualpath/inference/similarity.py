"""The scale and bias that a model was trained with, from cosines to logits."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

_KEY = "similarity"  # in metrics.json


@dataclass(frozen=True)
class Similarity:
    """Logits are ``logit_scale * cosine + logit_bias``.

    Attributes:
        logit_scale: factor of the cosine.
        logit_bias: summand of a sigmoid loss (SigLIP), whose logit is the log odds that image and
            text belong together. None: a softmax loss (CLIP).
    """

    logit_scale: float
    logit_bias: float | None = None

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Any]) -> "Similarity | None":
        """Read it from the metrics of a bundle. None: they have none."""
        values = metrics.get(_KEY)
        return None if values is None else cls(**values)

    def to_metrics(self) -> dict[str, Any]:
        """Return the part of a bundle's metrics that holds it."""
        return {_KEY: asdict(self)}
