"""Retrieval on the validation split while a model is being trained."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from dualpath.calibration import fit_calibration
from dualpath.data.manifest import Item
from dualpath.embedding import DualPath
from dualpath.evaluation.protocols import evaluate_all, instance_numbers
from dualpath.vectors import Vectors


def validate(
    model: DualPath,
    items: Sequence[Item],
    features: Sequence[torch.Tensor] | None,
    sentences: torch.Tensor | None = None,
) -> dict[str, Any]:
    """Measure retrieval over captioned items with the model as it is.

    Args:
        features: backbone features of each test view, (items, backbone_dim); none: the pictures
            go through the backbone.
        sentences: a frozen sentence encoder's features, (captions, width); none: the captions go
            through it.
    """
    text_vectors = _embed_captions(model, items, sentences)
    if features is None:
        image_vectors = model.embed_images(
            [item.path for item in items], workers=model.recipe.workers
        )
    else:
        was_training = model.network.training
        model.network.eval()
        views = [view.to(model.device) for view in features]
        image_vectors = model.network.embed_pictures(*views).float().cpu().numpy()
        model.network.train(was_training)
    instances = instance_numbers(items)
    metrics = {**evaluate_all(image_vectors, text_vectors, *instances), "split": "val"}
    calibration = fit_calibration(image_vectors, text_vectors, *instances)
    return metrics if calibration is None else {**metrics, "calibration": asdict(calibration)}


def _embed_captions(
    model: DualPath, items: Sequence[Item], sentences: torch.Tensor | None
) -> Vectors:
    if sentences is None:
        return model.embed_texts([caption for item in items for caption in item.captions])
    was_training = model.network.training
    model.network.eval()
    vectors = model.network.embed_sentences(sentences.to(model.device)).float().cpu().numpy()
    model.network.train(was_training)
    return vectors
