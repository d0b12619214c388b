"""What training, embedding, export and bundles ask of a text encoder.

A new text encoder is a subclass of :class:`TextEncoder` in a module of its own, and one line in
``registry.py``. It must implement :meth:`TextEncoder.from_recipe` and ``forward``. The other
methods have defaults that suit an encoder over a table of word embeddings.
"""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dualpath.recipes.schema import Recipe
from dualpath.recipes.stages import ParameterGroup, StageRecipe


@dataclass(frozen=True)
class TextEncoderSpec:
    """What a text encoder is built from.

    Attributes:
        recipe: of the training.
        num_embeddings: rows of the word table, padding included.
        load_pretrained: load pretrained weights where the encoder has some.
        folder: a bundle that carries the encoder's configuration, if it is built for one.
    """

    recipe: Recipe
    num_embeddings: int
    load_pretrained: bool = False
    folder: Path | None = None


class TextGraph(NamedTuple):
    """A module from token ids, (n, positions) int64, to features, (n, dim).

    Attributes:
        placed_positions: None: a row is a left-aligned caption of any length. A number: a row is a
            caption placed on so many positions, and the features of a caption are the sum over all
            its placements.
    """

    module: nn.Module
    placed_positions: int | None = None


class TextEncoder(nn.Module):
    """Base class of text encoders: token ids in, features out.

    Attributes:
        embedding: the table of word embeddings; row 0 is padding and stays zero.
        feature_dim: length of the features that are cached while a part of the encoder is frozen.
            None: nothing can be frozen, and nothing is cached.
        has_unused_parameters: whether some parameters get no gradient, which distributed training
            must know.
    """

    embedding: nn.Embedding
    feature_dim: int | None = None
    has_unused_parameters = False

    @classmethod
    @abstractmethod
    def from_recipe(cls, spec: TextEncoderSpec) -> "TextEncoder":
        """Build the encoder that a recipe describes.

        Raises:
            TextEncoderError: it cannot be built; the message says what to do.
        """

    @abstractmethod
    def forward(self, token_ids: Tensor) -> Tensor:
        """Return features before the last ReLU, (batch, dim) float32.

        Args:
            token_ids: (batch, positions) int64, as :meth:`augment_tokens` returns them; 0 is
                padding. Encoders with ``feature_dim`` also accept cached features, (batch,
                feature_dim) float32.
        """

    def embed(self, token_ids: Tensor, *, average: bool) -> Tensor:  # noqa: ARG002
        """Return the features of left-aligned captions at test, (batch, dim).

        Args:
            average: add the features of all positions of a caption, where the encoder
                distinguishes them (paper, section 5.1).
        """
        features: Tensor = self(token_ids)
        return features

    def augment_tokens(
        self,
        token_ids: Tensor,
        *,
        word_dropout: float,
        position_shift: bool,  # noqa: ARG002
    ) -> Tensor:
        """Replace words by ``[UNK]`` at random, (batch, words) int64 to (batch, positions) int64.

        The unknown word is the last row of the word table. ``position_shift`` is ignored unless an
        encoder overrides this method.
        """
        if word_dropout:
            dropped = torch.rand(token_ids.shape, device=token_ids.device) < word_dropout
            unknown = self.embedding.num_embeddings - 1
            token_ids = token_ids.masked_fill(dropped & (token_ids != 0), unknown)
        return token_ids

    def freeze(self, stage: StageRecipe) -> None:
        """Freeze what a stage does not train. Does nothing unless an encoder overrides it."""

    def parameter_groups(self) -> dict[ParameterGroup, list[nn.Parameter]]:
        """Return the parameters whose learning rates recipes set apart from ``text_trunk``."""
        return {"word_embedding": list(self.embedding.parameters())}

    def backbone_features(self, token_ids: Tensor) -> Tensor:
        """Return the features that are cached, (batch, feature_dim) float32."""
        raise NotImplementedError(f"{type(self).__name__} has no features to cache")

    def feature_key(self) -> str:
        """Return what identifies the cached features: changes with weights and settings."""
        raise NotImplementedError(f"{type(self).__name__} has no features to cache")

    @torch.no_grad()
    def set_word_vectors(self, vectors: Tensor) -> None:
        """Copy pretrained vectors, (rows, embedding_dim), into the word table.

        Rows that are NaN get random numbers with the standard deviation of the others. Padding
        stays zero.
        """
        table = self.embedding.weight
        table.normal_(std=float(vectors[~vectors.isnan()].std()))
        table[0] = 0
        table.copy_(torch.where(vectors.isnan(), table, vectors))

    @property
    def num_embeddings(self) -> int:
        """Number of token ids, padding included."""
        return self.embedding.num_embeddings

    def export_module(self, *, average: bool) -> TextGraph:  # noqa: ARG002
        """Return the module that bundles carry as ONNX.

        While it is traced, ``torch.onnx.is_in_onnx_export()`` is true.

        Args:
            average: as for :meth:`embed`.
        """
        return TextGraph(self)

    def config_files(self) -> dict[str, str]:
        """Return files, name to content, that a bundle needs to build the encoder again."""
        return {}
