"""What all systems are trained and measured on: cached features, captions, word vectors."""

import argparse
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dualpath.data.captions import CaptionTable, tabulate_captions
from dualpath.data.manifest import read_manifest
from dualpath.data.table import ImageTable
from dualpath.data.tokenizer import Tokenizer
from dualpath.data.transforms import fixed_views
from dualpath.models.backbones import resolve_recipe
from dualpath.models.dual_encoder import build_network
from dualpath.recipes.schema import Recipe, ResolvedRecipe
from dualpath.training.batches import FeatureSource
from dualpath.training.data import TrainingData, gather_data
from dualpath.training.feature_cache import cached_features
from dualpath.training.vocabulary import build_vocabulary
from dualpath.types import IntArray

SIZE = 224  # pixels
STAGE = {"name": "any", "epochs": 1, "contrastive": {}}  # a recipe needs a stage

Split = Literal["train", "val"]


@dataclass(frozen=True)
class Inputs:
    """The files and settings of a comparison. Hashable, so that a process reads them once.

    Attributes:
        data: folder with a manifest. cache: for features.
        word_vectors: file in GloVe's format.
        backbone: a timm model name. weights: file of its weights.
        seconds: of a training, on one core.
    """

    data: Path
    word_vectors: Path
    weights: Path
    backbone: str
    cache: Path
    seconds: float

    @classmethod
    def from_options(cls, options: argparse.Namespace) -> "Inputs":
        """Take the options of the same names."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})

    def recipe(self, grid: int) -> ResolvedRecipe:
        """Return a recipe of the backbone with ``grid`` x ``grid`` cells, and of the words."""
        image_encoder = {"backbone": self.backbone, "weights": self.weights, "grid": grid}
        text_encoder = {"word_vectors": self.word_vectors}
        tree = {"name": "peers", "image_encoder": image_encoder, "text_encoder": text_encoder}
        return resolve_recipe(Recipe.model_validate({**tree, "stages": [STAGE]}))


@dataclass(frozen=True)
class SplitData:
    """The captioned images of a split.

    Attributes:
        images: n images. table: their captions.
        source: the cached features of each image and of its mirror image.
    """

    images: ImageTable
    table: CaptionTable
    source: FeatureSource

    def tokens_of(self, captions: IntArray) -> Tensor:
        """Return the token ids of captions, (captions, words) int64, padded with 0."""
        return torch.from_numpy(self.table.tokens_of(captions))


@dataclass(frozen=True)
class Words:
    """The vocabulary of the training captions.

    Attributes:
        tokenizer: of the captions.
        vectors: (rows, embedding_dim) float32, NaN in rows without a vector.
    """

    tokenizer: Tokenizer
    vectors: Tensor


def split_cells(features: Tensor, grid: int) -> Tensor:
    """Return cached features as (batch, cells, channels)."""
    return features.view(len(features), -1, grid**2).transpose(1, 2)


@cache
def load_split(inputs: Inputs, split: Split, grid: int) -> SplitData:
    """Return a split with its features; compute and cache those that are missing."""
    gathered = _gather(inputs)
    if split == "train":
        images, hashes = gathered.train, gathered.train_hashes
    else:
        images, hashes = gathered.val, gathered.val_hashes
    network = build_network(inputs.recipe(grid), 2, load_pretrained=True)
    source = cached_features(
        network.image_encoder,
        images.paths,
        hashes,
        fixed_views(flip=True, crops=0),
        SIZE,
        inputs.cache,
        workers=2,
    )
    table = tabulate_captions(images, load_words(inputs).tokenizer, inputs.cache)
    return SplitData(images, table, source)


@cache
def load_words(inputs: Inputs) -> Words:
    """Return the words of the training captions, with their vectors."""
    captions = _gather(inputs).train.captions
    vocabulary = build_vocabulary(inputs.recipe(1), captions, print)
    if vocabulary.vectors is None:
        raise SystemExit(f"{inputs.word_vectors}: no word vectors")
    return Words(vocabulary.tokenizer, vocabulary.vectors)


@cache
def _gather(inputs: Inputs) -> TrainingData:
    manifest = read_manifest(inputs.data, cache=inputs.cache)
    return gather_data(manifest, inputs.cache, skip_broken=False, log=print)


def sample_rows(images: int, one_in: int) -> tuple[IntArray, IntArray]:
    """Split the numbers of images at random into two parts; the second is one in ``one_in``."""
    held_out = np.random.default_rng(0).permutation(images) % one_in == 0
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
