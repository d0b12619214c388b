"""The text CNN (paper, section 3.2, with the layer table of the authors' code).

A word is a position of a 1-D signal. The trunk is made of bottlenecks whose middle convolution
has width two and sees its own and the *previous* position, so padding to the right of a sentence
never reaches a word. The layers therefore work on packed rows, (rows, channels), one for each
position that exists; a convolution of width two is one matrix product over the row and the row
before it. What "exists" means is the only difference between the two ways to pad:

* **unmasked** (paper): every position from 0 to ``max_words`` exists; padding holds zeros before
  the embedding's bias, enters the batch statistics and the max pool.
* **masked**: the positions of words, and those that a stride carries them to, are all there is.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualpath.models.layers import batch_norm, initialise_linear
from dualpath.models.text.base import TextEncoder, TextEncoderSpec
from dualpath.recipes.stages import ParameterGroup

# Channels of each stage at width 1: (inside its first block, at its output). The other blocks of
# a stage are a quarter of the output wide inside.
_STAGES = ((128, 256), (512, 512), (1024, 1024), (2048, 2048))
_STRIDES = (1, 2, 2, 1)
PHASES = math.prod(_STRIDES)


class _Neighbours(NamedTuple):
    """For each row after a convolution, the input rows it reads, counted from 1; 0 is none.

    ``current`` none: the rows stay as they are.
    """

    previous: Tensor
    current: Tensor | None


class Bottleneck(nn.Module):
    """1x1, BN, ReLU, width-2, BN, ReLU, 1x1, BN, plus a shortcut, ReLU."""

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

    def forward(self, x: Tensor, neighbours: _Neighbours) -> Tensor:
        """Map (rows, channels) to (rows after the stride, out channels)."""
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
    """Embed sentences.

    Args:
        embedding_rows: rows of the word table; row 0 is padding and stays zero.
        embedding_dim: numbers in a word vector.
        dim: width of the output.
        width: multiplies the channels of the trunk (1: the paper's 256 to 2048).
        depths: blocks of the four stages.
        max_words: positions of a sentence where padding is unmasked.
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
        """Embed sentences placed on the word axis.

        Args:
            token_ids: (batch, positions) int64, 0 where there is no word. Unmasked padding needs
                the ``max_words`` positions that :meth:`place` gives.

        Returns:
            (batch, dim) features before the last ReLU (which the losses of the paper see after,
            and its test features before).
        """
        present = self._present(token_ids)
        token_ids = F.pad(token_ids, (0, present.shape[1] - token_ids.shape[1]))
        # Batch statistics are of all positions, so in training each has a row of its own.
        share = not self.training and not torch.compiler.is_exporting()
        if share:
            words, rows = _share(token_ids, present)
        else:
            words, rows = take(token_ids, present), number_rows(present)
        x = self.embedding_norm(self.embedding(words) + self.embedding_bias)
        for block in cast(Iterable[Bottleneck], self.blocks):
            rows, neighbours = _neighbours(rows, block.stride, share=share)
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

    def export_module(self, *, average: bool) -> nn.Module | None:
        """None with averaged positions in unmasked padding.

        torch computes what these positions share once, which a fixed graph cannot.
        """
        if average and not self.masked:
            return None
        return _PlacedTextCNN(self, PHASES if average else 1)

    def placements(self, token_ids: Tensor) -> Tensor:
        """Return in how many ways each sentence can be placed, (batch,) int64.

        Unmasked: the ``max_words - words + 1`` places of the paper. Masked: what differs is where
        the strides fall, so one for each of their phases, 4.

        Args:
            token_ids: (batch, words) int64, left-aligned.
        """
        words = (token_ids != 0).sum(dim=1)
        if self.masked:
            return torch.full_like(words, PHASES)
        return self.max_words - words.clamp(min=1) + 1

    def place(self, token_ids: Tensor, starts: Tensor) -> Tensor:
        """Place left-aligned sentences so that each begins at its start (position shift).

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
        """Place each sentence at a start drawn uniformly (paper, section 4.1, position shift)."""
        share = torch.rand(len(token_ids), device=token_ids.device)
        return self.place(token_ids, (share * self.placements(token_ids)).long())

    def place_everywhere(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Place each sentence at all its starts.

        Returns:
            token ids (placements, positions), and the sentence of each placement, (placements,).
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
        # One position more than a multiple of the strides, so that none of them drops a word.
        extra = (1 - token_ids.shape[1]) % PHASES
        present = F.pad(token_ids != 0, (0, extra))
        present[:, 0] |= ~present.any(dim=1)  # an empty sentence is one padding position
        return present


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


def number_rows(present: Tensor) -> Tensor:
    """Number the rows of positions, (batch, positions) int64 from 1; 0 where there is none.

    What is exported to another engine has shapes that do not depend on the words, so there every
    position has a row, but those that do not exist are nobody's neighbour.
    """
    if torch.compiler.is_exporting():
        rows = torch.arange(1, present.numel() + 1, device=present.device)
    else:
        rows = present.flatten().cumsum(0)
    return rows.view_as(present) * present


def take(values: Tensor, present: Tensor) -> Tensor:
    """Return the values, (batch, positions), of the positions that have a row."""
    return values.flatten() if torch.compiler.is_exporting() else values[present]


def _share(keys: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Give positions of equal keys the same row: the distinct keys, and rows as above."""
    distinct, which = torch.unique(keys[present], return_inverse=True)
    return distinct, torch.zeros_like(keys).masked_scatter(present, which + 1)


def _neighbours(rows: Tensor, stride: int, *, share: bool) -> tuple[Tensor, _Neighbours]:
    """Return the rows after a width-2 convolution, and those that it reads.

    With one zero on the left, position i of the output reads i - 1 and i at stride 1, and
    2i - 1 and 2i at stride 2.

    Args:
        rows: (batch, positions) int64, the row of each position, counted from 1; 0 is none.
        share: positions that read the same rows get the same row. What the placements of a
            sentence have in common, and sentences with each other, is then computed once.
    """
    padded = F.pad(rows, (1, 0))
    current = padded[:, 1::stride]
    previous = padded[:, 0::stride][:, : current.shape[1]]
    present = (previous > 0) | (current > 0) if stride > 1 else current > 0
    if share:
        base = int(rows.max()) + 1
        pairs, rows = _share(previous * base + current, present)
        return rows, _Neighbours(pairs // base, pairs % base)
    if stride == 1:
        return rows, _Neighbours(take(previous, present), None)
    numbered = number_rows(present)
    return numbered, _Neighbours(take(previous, present), take(current, present))


def gather_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Take rows, counted from 1; row 0 is zeros. ``F.embedding`` has the fastest gradient."""
    return F.embedding(rows, F.pad(x, (0, 0, 1, 0)))


def max_pool(x: Tensor, rows: Tensor) -> Tensor:
    """Maximum over the rows of each sentence, (batch, channels); ``rows`` as numbered above."""
    rows = rows.where(rows > 0, rows.amax(dim=1, keepdim=True))  # repeats change no maximum
    return F.embedding(rows - 1, x).amax(dim=1)


def mean_pool(x: Tensor, rows: Tensor) -> Tensor:
    """Mean over the rows of each sentence, (batch, channels); ``rows`` as numbered above."""
    present = rows > 0
    lengths = present.sum(dim=1)
    if torch.compiler.is_exporting():
        return gather_rows(x, rows).sum(dim=1) / lengths[:, None]
    owners = torch.repeat_interleave(lengths)
    total = x.new_zeros(len(rows), x.shape[1]).index_add(0, owners, x[rows[present] - 1])
    return total / lengths[:, None]
