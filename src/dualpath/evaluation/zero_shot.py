"""Zero-shot classification of folders, and its measurement as on ImageNet."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dualpath.data.manifest import read_image_folder
from dualpath.data.table import ImageTable
from dualpath.errors import ClassificationError
from dualpath.evaluation.calibration import expected_calibration_error
from dualpath.inference.embed import embed_image_table
from dualpath.inference.model import DualPath
from dualpath.inference.zero_shot import ZeroShotClassifier, fit_logit_scale
from dualpath.types import IntArray, Progress, Vectors, no_progress

FOLDER_LABELS = "folder"  # the label of an image is the name of its folder
_TOP = 5


@dataclass(frozen=True)
class EmbeddedImages:
    """Images with their vectors, (images, dim) float32."""

    images: ImageTable
    vectors: Vectors


@dataclass(frozen=True)
class ZeroShotResult:
    """Measured classification.

    Attributes:
        images: how many were classified. labels: how many labels there are.
        top_1: share of images whose most probable label is right, percent.
        top_5: share whose right label is among the five most probable, percent.
        mean_per_class: mean of the top-1 shares of the labels that occur, percent.
        calibration_error: expected calibration error of the most probable label, in [0, 1].
        logit_scale: of the probabilities.
    """

    images: int
    labels: int
    top_1: float
    top_5: float
    mean_per_class: float
    calibration_error: float
    logit_scale: float

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return asdict(self)


def embed_for_classification(
    model: DualPath,
    folder: Path,
    cache: Path | None = None,
    *,
    skip_broken: bool = False,
    progress: Progress = no_progress,
) -> EmbeddedImages:
    """Embed the images of a folder, with a manifest or without.

    Raises:
        ManifestError: there are no images, or some are broken and ``skip_broken`` is false.
    """
    images = read_image_folder(folder).images
    return EmbeddedImages(
        *embed_image_table(model, images, cache, skip_broken=skip_broken, progress=progress)
    )


def read_targets(images: ImageTable, labels: Sequence[str], key: str) -> IntArray:
    """Return the number of the right label of each image, (images,) int64.

    Args:
        key: of the manifest's metadata, or ``folder``: the name of the folder that an image is in.

    Raises:
        ClassificationError: an image has no label, or one that is not among ``labels``.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    targets = []
    for number in range(len(images)):
        record = images[number]
        folder = Path(record.file_name).parent.name or record.path.parent.name
        value = folder if key == FOLDER_LABELS else record.metadata.get(key)
        if str(value) not in numbers:
            raise ClassificationError(
                f"{record.file_name}: its label, {value!r} by '{key}', is not among the labels; "
                "add it, or remove the image"
            )
        targets.append(numbers[str(value)])
    return np.array(targets, np.int64)


def measure_zero_shot(
    classifier: ZeroShotClassifier, image_vectors: Vectors, targets: IntArray
) -> ZeroShotResult:
    """Measure a classifier on images with known labels.

    >>> eye = np.eye(3, dtype=np.float32)
    >>> measure_zero_shot(ZeroShotClassifier(("a", "b", "c"), eye, 9.0), eye, np.arange(3)).top_1
    100.0
    """
    probabilities = classifier.probabilities(image_vectors)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :_TOP]
    right = order == targets[:, None]
    first = right[:, 0]
    per_class = [first[targets == label].mean() for label in np.unique(targets)]
    return ZeroShotResult(
        images=len(targets),
        labels=len(classifier.labels),
        top_1=100 * float(first.mean()),
        top_5=100 * float(right.any(axis=1).mean()),
        mean_per_class=100 * float(np.mean(per_class)),
        calibration_error=expected_calibration_error(probabilities.max(axis=1), first),
        logit_scale=classifier.logit_scale,
    )


def fit_temperature(
    classifier: ZeroShotClassifier, image_vectors: Vectors, targets: IntArray
) -> ZeroShotClassifier:
    """Return the classifier with the logit scale that suits images with known labels best."""
    scale = fit_logit_scale(image_vectors @ classifier.vectors.T, targets)
    return ZeroShotClassifier(classifier.labels, classifier.vectors, scale)
