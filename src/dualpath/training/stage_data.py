"""What a stage trains on: pixels or tokens, or kept features of what is frozen in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dualpath.data.pairs import CaptionTable, FeaturePictures, PairDataset, PixelPictures
from dualpath.data.vector_store import Hashes
from dualpath.data.views import View, fixed_views
from dualpath.embedding import DualPath
from dualpath.models.text_transformer import TextTransformer
from dualpath.recipe import StageRecipe
from dualpath.training.feature_cache import cached_features, cached_sentences
from dualpath.training.prepare import TrainingData
from dualpath.training.progress import Display
from dualpath.vectors import Vectors


@dataclass(frozen=True)
class StageData:
    """The training set of a stage, and what is already known of the validation split.

    val_features: backbone features of each test view, (items, backbone_dim), if they are fixed.
    val_sentences: (captions, width), if a sentence encoder is frozen.
    """

    train: PairDataset
    val_features: list[Tensor] | None
    val_sentences: Vectors | None


def stage_data(
    model: DualPath,
    data: TrainingData,
    table: CaptionTable,
    stage: StageRecipe,
    targets: Vectors | None,
    cache: Path,
    display: Display,
) -> StageData:
    """Gather what a stage trains on, computing features that do not change in it once.

    Args:
        targets: a teacher's vector for each training caption.
    """
    pictures, val_features = _pictures(model, data, stage, cache, display)
    sentences, val_sentences = _sentences(model, data, table, stage, cache, display)
    return StageData(PairDataset(table, pictures, sentences, targets), val_features, val_sentences)


def _pictures(
    model: DualPath, data: TrainingData, stage: StageRecipe, cache: Path, display: Display
) -> tuple[PixelPictures | FeaturePictures, list[Tensor] | None]:
    image = model.recipe.image_encoder
    size = image.input_size
    assert size is not None, "the recipe was completed before training"
    pixels = PixelPictures(data.train.paths, size, stage.flip, stage.crops)
    if stage.backbone != "frozen":
        return pixels, None
    random = stage.crops == "random"
    train_views = [] if random else fixed_views(flip=stage.flip, crops=int(stage.crops))
    slides = image.test_size is not None  # and sees more than the kept features
    test_views = fixed_views(flip=image.flip_average, crops=image.average_crops)
    val_views = [] if slides else test_views
    total = len(data.train) * len(train_views) + len(data.val) * len(val_views)
    with display.work("backbone features", total) as advance:

        def features(paths: Sequence[Path], hashes: Hashes, views: list[View]) -> FeaturePictures:
            return cached_features(
                model.network.image_encoder,
                paths,
                hashes,
                views,
                size,
                cache,
                workers=model.recipe.workers,
                advance=advance,
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


def _sentences(
    model: DualPath,
    data: TrainingData,
    table: CaptionTable,
    stage: StageRecipe,
    cache: Path,
    display: Display,
) -> tuple[Vectors | None, Vectors | None]:
    encoder = model.network.text_encoder
    if not isinstance(encoder, TextTransformer) or stage.sentence_encoder != "frozen":
        return None, None
    val_tokens = model.tokenizer.encode(list(data.val.captions))
    with display.work("sentence features", len(table.token_ids) + len(val_tokens)) as advance:
        train = cached_sentences(encoder, table.token_ids, cache, advance)
        val = cached_sentences(encoder, val_tokens, cache, advance)
    return train, val
