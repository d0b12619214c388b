"""A shallow text CNN, of the paper's four components, for thousands to a million captions.

The paper's trunk halves the caption twice and is 11 blocks deep, which a few thousand captions
cannot train. This one keeps every word: a layer from word vector to channels, residual convolutions
over a word and its two neighbours, and pooling. It has no strides, so the position of a caption
does not matter. Only the positions of words exist (masked padding).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualpath.models.layers import batch_norm, initialise_linear
from dualpath.models.text.base import TextEncoder, TextEncoderSpec
from dualpath.models.text.rows import (
    gather_rows,
    max_pool,
    mean_pool,
    number_rows,
    take,
    with_first_position,
)


class ResidualConvolution(nn.Module):
    """Width-3 convolution, BN, ReLU, added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolve = nn.Linear(3 * channels, channels, bias=False)
        self.norm = batch_norm(channels)

    def forward(self, x: Tensor, previous: Tensor, following: Tensor) -> Tensor:
        """Map (rows, channels) to the same shape; 0 in the row numbers is a missing neighbour."""
        window = torch.cat([gather_rows(x, previous), x, gather_rows(x, following)], dim=1)
        y: Tensor = F.relu(self.norm(self.convolve(window)))
        return x + y


class ResidualTextCNN(TextEncoder):
    """Embed captions.

    Args:
        embedding_rows: rows of the word table; row 0 is padding and stays zero.
        embedding_dim: length of a word vector.
        dim: length of an embedding.
        channels: of the trunk.
        layers: number of residual convolutions; 0 gives a bag of words.
        pooling: over the words.
        dropout: dropout rate of the pooled features.
    """

    def __init__(
        self,
        embedding_rows: int,
        *,
        embedding_dim: int,
        dim: int,
        channels: int,
        layers: int,
        pooling: Literal["max", "mean"] = "mean",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self._pool = max_pool if pooling == "max" else mean_pool
        self.embedding = nn.Embedding(embedding_rows, embedding_dim, padding_idx=0)
        self.embedding_norm = batch_norm(embedding_dim)
        self.widen = nn.Linear(embedding_dim, channels, bias=False)
        self.widen_norm = batch_norm(channels)
        self.layers = nn.ModuleList(ResidualConvolution(channels) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(channels, dim, bias=False)
        self.project_norm = batch_norm(dim)
        self.apply(initialise_linear)
        with torch.no_grad():
            self.embedding.weight[0].zero_()

    @classmethod
    def from_recipe(cls, spec: TextEncoderSpec) -> "ResidualTextCNN":
        text = spec.recipe.text_encoder
        return cls(
            spec.num_embeddings,
            embedding_dim=text.embedding_dim,
            dim=spec.recipe.dim,
            channels=max(1, round(2048 * text.width)),
            layers=text.layers,
            pooling=text.pooling,
            dropout=text.dropout,
        )

    def forward(self, token_ids: Tensor) -> Tensor:
        """Embed captions, (batch, positions) int64, 0 where there is no word.

        Returns:
            (batch, dim) features before the last ReLU.
        """
        present = with_first_position(token_ids != 0)
        rows = number_rows(present)
        previous = take(F.pad(rows, (1, 0))[:, :-1], present)
        following = take(F.pad(rows, (0, 1))[:, 1:], present)
        words = self.embedding(take(token_ids, present))
        x = self.widen_norm(self.widen(self.embedding_norm(words)))
        for layer in self.layers:
            x = layer(x, previous, following)
        embedded: Tensor = self.project_norm(self.project(self.dropout(self._pool(x, rows))))
        return embedded
