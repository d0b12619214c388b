"""The text CNN of the paper (section 3.2, with the layer table of the authors' code).

A word is a position of a one-dimensional signal. The trunk consists of bottlenecks whose middle
convolution has width two: it reads a position and the *previous* one, so padding to the right of a
caption never reaches a word. The layers work on packed rows (``rows.py``). The two ways to pad
differ in which positions exist:

* **unmasked** (paper): all positions from 0 to ``max_words``. Padding holds zeros before the
  embedding's bias, and takes part in the batch statistics and in the max pooling.
* **masked**: the positions of words, and those to which a stride moves them.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualpath.models.layers import batch_norm, initialise_linear
from dualpath.models.text.base import TextEncoder, TextEncoderSpec, TextGraph
from dualpath.models.text.rows import (
    Neighbours,
    convolution_rows,
    gather_rows,
    max_pool,
    mean_pool,
    number_rows,
    share_rows,
    take,
    with_first_position,
)
from dualpath.recipes.stages import ParameterGroup

# Channels of each stage at width 1: (inside its first block, at its output). The other blocks of
# a stage are a quarter of the output wide inside.
_STAGES = ((128, 256), (512, 512), (1024, 1024), (2048, 2048))
_STRIDES = (1, 2, 2, 1)
PHASES = math.prod(_STRIDES)


class Bottleneck(nn.Module):
    """1x1, BN, ReLU, width 2, BN, ReLU, 1x1, BN, added to a shortcut, ReLU."""

    def __init__(self, channels: int, inner: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.reduce = nn.Linear(channels, inner, bias=False)
        self.reduce_norm = batch_norm(inner)
        self.convolve = nn.Linear(2 * inner, inner, bias=False)
        self.convolve_norm = batch_norm(inner)
        self.expand = nn.Linear(inner, out, bias=False)
        self.expand_norm = batch_norm(out)
        self.shortcut: nn.Sequential | None = None
        if channels != out or stride != 1:
            self.shortcut = nn.Sequential(nn.Linear(channels, out, bias=False), batch_norm(out))

    def forward(self, x: Tensor, neighbours: Neighbours) -> Tensor:
        """Map (rows, channels) to (rows after the stride, out)."""
        inner = F.relu(self.reduce_norm(self.reduce(x)))
        current = inner
        if neighbours.current is not None:
            current, x = (gather_rows(rows, neighbours.current) for rows in (inner, x))
        both = torch.cat([gather_rows(inner, neighbours.previous), current], dim=1)
        inner = F.relu(self.convolve_norm(self.convolve(both)))
        if self.shortcut is not None:
            x = self.shortcut(x)
        return F.relu(x + self.expand_norm(self.expand(inner)))


class TextCNN(TextEncoder):
    """Embed captions.

    Args:
        embedding_rows: rows of the word table; row 0 is padding and stays zero.
        embedding_dim: length of a word vector.
        dim: length of an embedding.
        width: multiplies the channels of the trunk (1: the paper's 256 to 2048).
        depths: blocks of the four stages.
        max_words: positions of a caption with unmasked padding.
        padding: ``"masked"`` or ``"unmasked"``.
        pooling: over the positions, ``"max"`` (the paper's) or ``"mean"``.
    """

    def __init__(
        self,
        embedding_rows: int,
        *,
        embedding_dim: int = 300,
        dim: int = 2048,
        width: float = 1.0,
        depths: Sequence[int] = (3, 4, 6, 1),
        max_words: int = 32,
        padding: Literal["masked", "unmasked"] = "unmasked",
        pooling: Literal["max", "mean"] = "max",
    ) -> None:
        super().__init__()
        self.masked = padding == "masked"
        self.max_words = max_words
        self._pool = max_pool if pooling == "max" else mean_pool
        self.embedding = nn.Embedding(embedding_rows, embedding_dim, padding_idx=0)
        self.embedding_bias = nn.Parameter(torch.zeros(embedding_dim))
        self.embedding_norm = batch_norm(embedding_dim)
        blocks: list[Bottleneck] = []
        channels = embedding_dim
        for (first_inner, out), stride, depth in zip(_STAGES, _STRIDES, depths, strict=True):
            inner, out = max(1, round(first_inner * width)), max(4, round(out * width))
            blocks.append(Bottleneck(channels, inner, out, stride))
            blocks += [Bottleneck(out, out // 4, out) for _ in range(depth - 1)]
            channels = out
        self.blocks = nn.ModuleList(blocks)
        self.project = nn.Linear(channels, dim, bias=False)
        self.project_norm = batch_norm(dim)
        self.trunk_dim = channels
        self.apply(initialise_linear)
        bound = math.sqrt(3 / (embedding_rows - 1))
        nn.init.uniform_(self.embedding.weight, -bound, bound)
        with torch.no_grad():
            self.embedding.weight[0].zero_()

    @classmethod
    def from_recipe(cls, spec: TextEncoderSpec) -> "TextCNN":
        text = spec.recipe.text_encoder
        return cls(
            spec.num_embeddings,
            embedding_dim=text.embedding_dim,
            dim=spec.recipe.dim,
            width=text.width,
            depths=text.depths,
            max_words=text.max_words,
            padding=text.padding,
            pooling=text.pooling,
        )

    def forward(self, token_ids: Tensor) -> Tensor:
        """Embed captions that are placed on the axis of positions.

        Args:
            token_ids: (batch, positions) int64, 0 where there is no word. Unmasked padding needs
                the ``max_words`` positions that :meth:`place` returns.

        Returns:
            (batch, dim) features before the last ReLU. The losses of the paper use them after it,
            the test features before it.
        """
        present = self._present(token_ids)
        token_ids = F.pad(token_ids, (0, present.shape[1] - token_ids.shape[1]))
        # Batch statistics are over all positions, so in training each has a row of its own.
        share = not self.training and not torch.onnx.is_in_onnx_export()
        all_present = not self.masked
        if share:
            words, rows = share_rows(token_ids, present)
        else:
            words = take(token_ids, present, all_present=all_present)
            rows = number_rows(present)
        x = self.embedding_norm(self.embedding(words) + self.embedding_bias)
        neighbours: Neighbours | None = None
        for block in cast(Iterable[Bottleneck], self.blocks):
            # Without sharing, a block without a stride keeps the rows and their neighbours.
            if share or block.stride > 1 or neighbours is None or neighbours.current is not None:
                rows, neighbours = convolution_rows(
                    rows, block.stride, share=share, all_present=all_present
                )
            x = block(x, neighbours)
        embedded: Tensor = self.project_norm(self.project(self._pool(x, rows)))
        return embedded

    def embed(self, token_ids: Tensor, *, average: bool) -> Tensor:
        if not average:
            return self(self._place_left(token_ids))  # type: ignore[no-any-return]
        placed, owners = self.place_everywhere(token_ids)
        features = self(placed)
        summed = features.new_zeros(len(token_ids), features.shape[1])
        return summed.index_add_(0, owners, features)  # type: ignore[no-any-return]

    def augment_tokens(
        self, token_ids: Tensor, *, word_dropout: float, position_shift: bool
    ) -> Tensor:
        """Also place each caption at a random position (paper, section 4.1), or on the left."""
        token_ids = super().augment_tokens(
            token_ids, word_dropout=word_dropout, position_shift=position_shift
        )
        return self.place_at_random(token_ids) if position_shift else self._place_left(token_ids)

    def parameter_groups(self) -> dict[ParameterGroup, list[nn.Parameter]]:
        return {"word_embedding": [*self.embedding.parameters(), self.embedding_bias]}

    def export_module(self, *, average: bool) -> TextGraph:
        """In unmasked padding, the caller places captions at all positions that are averaged."""
        if average and not self.masked:
            return TextGraph(self, self.max_words)
        return TextGraph(_PlacedTextCNN(self, PHASES if average else 1))

    def placements(self, token_ids: Tensor) -> Tensor:
        """Return the number of different positions of each caption, (batch,) int64.

        Unmasked: the ``max_words - words + 1`` positions of the paper. Masked: positions differ in
        the phase of the strides alone, so there are 4.

        Args:
            token_ids: (batch, words) int64, left-aligned.
        """
        words = (token_ids != 0).sum(dim=1)
        if self.masked:
            return torch.full_like(words, PHASES)
        return self.max_words - words.clamp(min=1) + 1

    def place(self, token_ids: Tensor, starts: Tensor) -> Tensor:
        """Move left-aligned captions to the given starts (position shift).

        Args:
            token_ids: (batch, words) int64, left-aligned.
            starts: (batch,) int64, below :meth:`placements`.

        Returns:
            (batch, positions) int64.
        """
        positions = token_ids.shape[1] + PHASES - 1 if self.masked else self.max_words
        source = torch.arange(positions, device=token_ids.device) - starts[:, None]
        inside = (source >= 0) & (source < token_ids.shape[1])
        return token_ids.gather(1, source.clamp(0, token_ids.shape[1] - 1)) * inside

    def place_at_random(self, token_ids: Tensor) -> Tensor:
        """Move each caption to a random start (paper, section 4.1, position shift)."""
        share = torch.rand(len(token_ids), device=token_ids.device)
        return self.place(token_ids, (share * self.placements(token_ids)).long())

    def place_everywhere(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Move each caption to each of its starts.

        Returns:
            Token ids, (placements, positions), and the caption of each placement, (placements,).
        """
        counts = self.placements(token_ids)
        owners = torch.repeat_interleave(counts)
        first = counts.cumsum(0) - counts
        starts = torch.arange(len(owners), device=owners.device) - first[owners]
        return self.place(token_ids[owners], starts), owners

    def _place_left(self, token_ids: Tensor) -> Tensor:
        starts = torch.zeros(len(token_ids), dtype=torch.int64, device=token_ids.device)
        return self.place(token_ids, starts)

    def _present(self, token_ids: Tensor) -> Tensor:
        """Return which positions exist, (batch, positions) bool."""
        if not self.masked:
            return torch.ones_like(token_ids, dtype=torch.bool)
        # One position more than a multiple of the strides, so that no stride drops a word.
        extra = (1 - token_ids.shape[1]) % PHASES
        present = F.pad(token_ids != 0, (0, extra))
        return with_first_position(present)


class _PlacedTextCNN(nn.Module):
    """The text CNN for export: the sum of the features of the first ``placements`` positions."""

    def __init__(self, encoder: TextCNN, placements: int) -> None:
        super().__init__()
        self.encoder = encoder
        self._placements = placements

    def forward(self, token_ids: Tensor) -> Tensor:
        """Map (n, words) int64 to (n, dim)."""
        placed = [
            self.encoder.place(token_ids, torch.full_like(token_ids[:, 0], start))
            for start in range(self._placements)
        ]
        features: Tensor = self.encoder(torch.cat(placed))
        return features.view(self._placements, token_ids.shape[0], features.shape[1]).sum(dim=0)
