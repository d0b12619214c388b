"""Zero-shot classification: an image gets the label whose prompts are nearest (CLIP, section 3.1).

A label is written into prompts such as "a photo of a {}.". Its vector is the mean direction of the
embeddings of its prompts. The probabilities are a softmax of the cosines times the logit scale of
the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from dualpath.errors import ClassificationError
from dualpath.inference.model import DualPath
from dualpath.types import IntArray, Progress, Vectors, no_progress

DEFAULT_TEMPLATE = "a photo of a {}."
# The seven templates that OpenAI's notebook chose for ImageNet.
IMAGENET_TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
_DEFAULT_SCALE = 100.0  # at which training of CLIP clips its scale

Probabilities = npt.NDArray[np.float32]


class LabelScore(NamedTuple):
    """A label of an image and its probability."""

    label: str
    probability: float


@dataclass(frozen=True)
class ZeroShotClassifier:
    """Labels as vectors of a model.

    Attributes:
        labels: in the order of the vectors.
        vectors: (labels, dim) float32, unit length.
        logit_scale: factor of the cosines in the softmax; the inverse of a temperature.
    """

    labels: tuple[str, ...]
    vectors: Vectors
    logit_scale: float

    @classmethod
    def from_labels(
        cls,
        model: DualPath,
        labels: Sequence[str],
        templates: Sequence[str] = (DEFAULT_TEMPLATE,),
        *,
        logit_scale: float | None = None,
        progress: Progress = no_progress,
    ) -> "ZeroShotClassifier":
        """Embed labels.

        Args:
            labels: such as ``["dog", "cat"]``; names of classes and their prompt names may differ:
                ``"n02123045=cat"``.
            templates: with ``{}`` in place of the label.
            logit_scale: None: that of the model, or 100 if it has none.
            progress: called with the number of prompts finished since the last call.

        Raises:
            ClassificationError: there is no label, two are equal, or a template has no ``{}``.
        """
        names = [label.partition("=")[0].strip() for label in labels]
        spoken = [label.rpartition("=")[2].strip() for label in labels]
        _check(names, spoken, templates)
        prompts = [template.replace("{}", one) for one in spoken for template in templates]
        embedded = model.embed_texts(prompts, progress=progress)
        means = embedded.reshape(len(names), len(templates), -1).mean(axis=1)
        vectors = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        return cls(tuple(names), vectors.astype(np.float32), logit_scale or model_scale(model))

    def probabilities(self, image_vectors: Vectors) -> Probabilities:
        """Return the probability of each label, (images, labels) float32; rows sum to 1."""
        return softmax(self.logit_scale * (image_vectors @ self.vectors.T))

    def classify(self, image_vectors: Vectors, top: int = 5) -> list[list[LabelScore]]:
        """Return the ``top`` labels of each image, most probable first."""
        probabilities = self.probabilities(image_vectors)
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        return [
            [LabelScore(self.labels[column], float(row[column])) for column in columns]
            for row, columns in zip(probabilities, order, strict=True)
        ]


def classify(
    model: DualPath,
    images: Sequence[str | Path | Image.Image],
    labels: Sequence[str],
    *,
    templates: Sequence[str] = (DEFAULT_TEMPLATE,),
    top: int = 5,
) -> list[list[LabelScore]]:
    """Return the most probable labels of images.

    Args:
        model: a pretrained image-text model, or a trained one whose words include the labels.
        images: files or PIL images.
        labels: such as ``["dog", "cat"]``.
        templates: of prompts, with ``{}`` in place of the label; several are averaged.
        top: number of labels for each image.

    Raises:
        ClassificationError: labels or templates cannot be used.
        ImageError: a file is missing or cannot be decoded.

    Example::

        model = dualpath.load("google/siglip2-base-patch16-224")
        [[best, *_]] = dualpath.classify(model, ["photo.jpg"], ["dog", "cat"])
    """
    classifier = ZeroShotClassifier.from_labels(model, labels, templates)
    return classifier.classify(model.embed_images(images), top)


def model_scale(model: DualPath) -> float:
    """Return the logit scale of a model; of one trained here, the slope of its calibration."""
    if model.similarity is not None:
        return model.similarity.logit_scale
    return _DEFAULT_SCALE if model.calibration is None else model.calibration.slope


def fit_logit_scale(cosines: Vectors, targets: IntArray) -> float:
    """Return the scale with the lowest mean log loss (temperature scaling, Guo et al. 2017).

    Args:
        cosines: (images, labels).
        targets: (images,) column of the right label.

    >>> round(fit_logit_scale(np.array([[1.0, 0.0]] * 9 + [[0.0, 1.0]]), np.zeros(10, int)), 3)
    2.197
    """

    def loss(log_scale: float) -> float:
        logits = np.exp(log_scale) * cosines.astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        chosen = logits[np.arange(len(targets)), targets]
        return float((np.log(np.exp(logits).sum(axis=1)) - chosen).mean())

    # The loss has one minimum; a golden section finds it.
    low, high = np.log(0.01), np.log(10_000.0)
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(80):
        first, second = high - ratio * (high - low), low + ratio * (high - low)
        if loss(first) < loss(second):
            high = second
        else:
            low = first
    return float(np.exp((low + high) / 2))


def softmax(logits: npt.NDArray[np.floating]) -> Probabilities:
    """Return the softmax of each row.

    >>> softmax(np.array([[0.0, 0.0]])).tolist()
    [[0.5, 0.5]]
    """
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Probabilities = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


def _check(names: Sequence[str], spoken: Sequence[str], templates: Sequence[str]) -> None:
    if not names:
        raise ClassificationError("there are no labels; give at least one")
    if not all(names) or not all(spoken):
        raise ClassificationError("a label is empty; remove it")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ClassificationError(f"the label '{repeated[0]}' is listed more than once; remove one")
    if not templates:
        raise ClassificationError("there is no template; give one such as 'a photo of a {}.'")
    for template in templates:
        if "{}" not in template:
            raise ClassificationError(f"the template '{template}' has no {{}} for the label")
