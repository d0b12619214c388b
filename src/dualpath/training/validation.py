"""Retrieval on the validation split during a training."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from dualpath.data.table import ImageTable, instance_numbers
from dualpath.distributed.collectives import all_gather_rows, local_slice
from dualpath.evaluation.calibration import fit_calibration
from dualpath.evaluation.protocols import evaluate_all
from dualpath.inference.model import DualPath
from dualpath.models.layers import evaluation_mode
from dualpath.types import Vectors


def validate(
    model: DualPath,
    images: ImageTable,
    features: Sequence[torch.Tensor] | None,
    text_features: Vectors | None = None,
) -> dict[str, Any]:
    """Measure retrieval over captioned images with the model's current weights.

    With several processes, each embeds its share.

    Args:
        features: cached backbone features of each test view, (images, backbone_dim). None: images
            go through the backbone.
        text_features: cached features of a sentence encoder, (captions, feature_dim). None:
            captions go through it.

    Returns:
        The metrics by name, with ``split`` and, if it can be fitted, ``calibration``.
    """
    if text_features is None:
        captions = list(images.captions)
        own = model.embed_texts(captions[local_slice(len(captions))])
        text_vectors = _gather(own, len(captions))
    else:
        text_vectors = model.embed_text_features(text_features)
    if features is None:
        paths = images.paths[local_slice(len(images))]
        own = model.embed_images(paths, workers=model.recipe.workers)
        image_vectors = _gather(own, len(images))
    else:
        views = [view.to(model.device) for view in features]
        with evaluation_mode(model.network):
            image_vectors = model.network.embed_images(*views).float().cpu().numpy()
    instances = instance_numbers(images)
    result = evaluate_all(image_vectors, text_vectors, *instances)
    metrics = {**result.to_dict(), "split": "val"}
    calibration = fit_calibration(image_vectors, text_vectors, *instances)
    return metrics if calibration is None else {**metrics, "calibration": asdict(calibration)}


def _gather(own: Vectors, total: int) -> Vectors:
    gathered: Vectors = all_gather_rows(torch.from_numpy(own), total).numpy()
    return gathered
