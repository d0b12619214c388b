"""The data of a stage: pixels and token ids, or cached features of the parts that it freezes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dualpath.data.captions import CaptionTable
from dualpath.data.transforms import View, fixed_views
from dualpath.data.vector_store import Hashes
from dualpath.inference.model import DualPath
from dualpath.recipes.stages import StageRecipe
from dualpath.training.batches import FeatureSource, PairDataset, PixelSource
from dualpath.training.data import TrainingData
from dualpath.training.feature_cache import cached_features, cached_text_features
from dualpath.types import Vectors
from dualpath.utils.progress import Display


@dataclass(frozen=True)
class StageData:
    """The training set of a stage, and the cached features of the validation split.

    Attributes:
        train: the training set.
        val_features: backbone features of each test view, (images, backbone_dim), if the backbone
            is frozen.
        val_text_features: (captions, feature_dim), if a sentence encoder is frozen.
    """

    train: PairDataset
    val_features: list[Tensor] | None
    val_text_features: Vectors | None


def stage_data(
    model: DualPath,
    data: TrainingData,
    table: CaptionTable,
    stage: StageRecipe,
    targets: Vectors | None,
    cache: Path,
    display: Display,
) -> StageData:
    """Gather the data of a stage; features that do not change in it are computed once.

    Args:
        targets: the teacher's embedding of each training caption.
    """
    images, val_features = _image_source(model, data, stage, cache, display)
    text_features, val_text_features = _text_features(model, data, table, stage, cache, display)
    train = PairDataset(table, images, text_features, targets)
    return StageData(train, val_features, val_text_features)


def _image_source(
    model: DualPath, data: TrainingData, stage: StageRecipe, cache: Path, display: Display
) -> tuple[PixelSource | FeatureSource, list[Tensor] | None]:
    image = model.recipe.image_encoder
    size = image.input_size
    pixels = PixelSource(data.train.paths, size, stage.flip, stage.crops)
    if stage.backbone != "frozen":
        return pixels, None
    random = stage.crops == "random"
    train_views = [] if random else fixed_views(flip=stage.flip, crops=int(stage.crops))
    slides = image.test_size is not None  # a sliding network sees more than cached features
    test_views = fixed_views(flip=image.flip_average, crops=image.tta_crops)
    val_views = [] if slides else test_views
    total = len(data.train) * len(train_views) + len(data.val) * len(val_views)
    with display.bar("backbone features", total) as progress:

        def features(paths: Sequence[Path], hashes: Hashes, views: list[View]) -> FeatureSource:
            return cached_features(
                model.network.image_encoder,
                paths,
                hashes,
                views,
                size,
                cache,
                workers=model.recipe.workers,
                progress=progress,
            )

        val = features(data.val.paths, data.val_hashes, val_views)
        train = (
            features(data.train.paths, data.train_hashes, train_views) if train_views else pixels
        )
    val_features = [
        torch.from_numpy(vectors[rows])
        for vectors, rows in zip(val.features, val.rows, strict=True)
    ]
    return train, val_features or None


def _text_features(
    model: DualPath,
    data: TrainingData,
    table: CaptionTable,
    stage: StageRecipe,
    cache: Path,
    display: Display,
) -> tuple[Vectors | None, Vectors | None]:
    encoder = model.network.text_encoder
    if encoder.feature_dim is None or stage.sentence_encoder != "frozen":
        return None, None
    val_tokens = model.tokenizer.encode(list(data.val.captions))
    with display.bar("sentence features", len(table.token_ids) + len(val_tokens)) as progress:
        train = cached_text_features(encoder, table.token_ids, cache, progress)
        val = cached_text_features(encoder, val_tokens, cache, progress)
    return train, val
