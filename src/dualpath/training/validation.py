"""Retrieval on the validation split while a model is being trained."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from dualpath.calibration import fit_calibration
from dualpath.data.items import Items
from dualpath.embedding import DualPath
from dualpath.evaluation.protocols import evaluate_all, instance_numbers
from dualpath.models.layers import evaluating
from dualpath.processes import gather_shares, share
from dualpath.vectors import Vectors


def validate(
    model: DualPath,
    items: Items,
    features: Sequence[torch.Tensor] | None,
    sentences: Vectors | None = None,
) -> dict[str, Any]:
    """Measure retrieval over captioned items with the model as it is.

    Where several processes train, each embeds its share.

    Args:
        features: backbone features of each test view, (items, backbone_dim); none: the pictures
            go through the backbone.
        sentences: a frozen sentence encoder's features, (captions, width); none: the captions go
            through it.
    """
    if sentences is None:
        captions = list(items.captions)
        text_vectors = _of_all(model.embed_texts(captions[share(len(captions))]), len(captions))
    else:
        text_vectors = model.embed_kept_sentences(sentences)
    if features is None:
        paths = items.paths[share(len(items))]
        own = model.embed_images(paths, workers=model.recipe.workers)
        image_vectors = _of_all(own, len(items))
    else:
        views = [view.to(model.device) for view in features]
        with evaluating(model.network):
            image_vectors = model.network.embed_pictures(*views).float().cpu().numpy()
    instances = instance_numbers(items)
    metrics = {**evaluate_all(image_vectors, text_vectors, *instances), "split": "val"}
    calibration = fit_calibration(image_vectors, text_vectors, *instances)
    return metrics if calibration is None else {**metrics, "calibration": asdict(calibration)}


def _of_all(own: Vectors, total: int) -> Vectors:
    together: Vectors = gather_shares(torch.from_numpy(own), total).numpy()
    return together
