"""The encoders of the peers, written from their papers.

* VSE++: Faghri et al., BMVC 2018 (GRU).
* VSE-infinity: Chen et al., CVPR 2021 (generalised pooling over image cells and over words, BiGRU).
* CMPM + CMPC: Zhang and Lu, ECCV 2018 (BiLSTM).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

DIM = 512  # of every system's embeddings


@dataclass(frozen=True)
class Task:
    """What a system is built for.

    Attributes:
        word_vectors: (rows, embedding_dim) float32, NaN in rows without a vector.
        classes: training instances.
        features: channels of the backbone's last map. cells: of that map.
    """

    word_vectors: Tensor
    classes: int
    features: int
    cells: int


@torch.no_grad()
def set_word_vectors(embedding: nn.Embedding, vectors: Tensor) -> None:
    """Copy word vectors as ``TextEncoder.set_word_vectors`` does."""
    table = embedding.weight
    table.normal_(std=float(vectors[~vectors.isnan()].std()))
    table[0] = 0
    table.copy_(torch.where(vectors.isnan(), table, vectors))


class RecurrentTextEncoder(nn.Module):
    """A recurrent text encoder.

    Args:
        task: gives the word vectors.
        kind: ``nn.GRU`` or ``nn.LSTM``.
        bidirectional: the states of both directions are averaged.
        pooling: of the states: the last one, their mean, their maximum, or generalised pooling.
    """

    def __init__(
        self,
        task: Task,
        kind: type[nn.GRU] | type[nn.LSTM],
        *,
        bidirectional: bool,
        pooling: Literal["last", "mean", "max", "generalised"],
    ) -> None:
        super().__init__()
        rows, embedding_dim = task.word_vectors.shape
        self.embedding = nn.Embedding(rows, embedding_dim, padding_idx=0)
        set_word_vectors(self.embedding, task.word_vectors)
        self.rnn = kind(embedding_dim, DIM, batch_first=True, bidirectional=bidirectional)
        self.generalised = GeneralisedPooling() if pooling == "generalised" else None
        self.pooling = pooling

    def forward(self, token_ids: Tensor) -> Tensor:
        """Embed texts, (batch, words) int64 padded with 0, as (batch, DIM)."""
        lengths = (token_ids != 0).sum(dim=1).clamp(min=1)
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(token_ids), lengths, batch_first=True, enforce_sorted=False
        )
        states, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        if self.rnn.bidirectional:
            states = (states[..., :DIM] + states[..., DIM:]) / 2
        return self._pool(states, lengths)

    def _pool(self, states: Tensor, lengths: Tensor) -> Tensor:
        present = torch.arange(states.shape[1]) < lengths[:, None]
        if self.generalised is not None:
            pooled: Tensor = self.generalised(states, present)
            return pooled
        if self.pooling == "last":
            return states[torch.arange(len(states)), lengths - 1]
        if self.pooling == "max":
            return states.masked_fill(~present[..., None], -torch.inf).amax(dim=1)
        return (states * present[..., None]).sum(dim=1) / lengths[:, None]


class GeneralisedPooling(nn.Module):
    """Sort every channel, and weight the ranks by a small recurrent network over positions."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.width = width
        self.rnn = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.weight = nn.Linear(width, 1, bias=False)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Pool (batch, positions, channels) where ``present``, (batch, positions), is true."""
        lengths = present.sum(dim=1)
        positions = torch.arange(x.shape[1])[:, None]
        rates = torch.exp(torch.arange(0, self.width, 2) * (-math.log(10_000.0) / self.width))
        codes = torch.cat([torch.sin(positions * rates), torch.cos(positions * rates)], dim=1)
        packed = nn.utils.rnn.pack_padded_sequence(
            codes.expand(len(x), -1, -1), lengths, batch_first=True, enforce_sorted=False
        )
        states, _ = nn.utils.rnn.pad_packed_sequence(
            self.rnn(packed)[0], batch_first=True, total_length=x.shape[1]
        )
        states = (states[..., : self.width] + states[..., self.width :]) / 2
        scores = self.weight(states).squeeze(2).masked_fill(~present, -1e4)
        weights = (scores / 0.1).softmax(dim=1)
        ranked = x.masked_fill(~present[..., None], -1e4).sort(dim=1, descending=True).values
        pooled: Tensor = (ranked.masked_fill(ranked == -1e4, 0) * weights[..., None]).sum(dim=1)
        return pooled


class GridImageEncoder(nn.Module):
    """VSE-infinity's image encoder: a linear layer and a residual MLP per cell, then pooling."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.project = nn.Linear(features, DIM)
        self.perceptron = nn.Sequential(
            nn.Linear(features, DIM // 2), nn.ReLU(), nn.Linear(DIM // 2, DIM)
        )
        self.pool = GeneralisedPooling()

    def forward(self, cells: Tensor) -> Tensor:
        """Embed (batch, cells, features) as (batch, DIM)."""
        x = self.project(cells) + self.perceptron(cells)
        present = torch.ones(x.shape[:2], dtype=torch.bool)
        if self.training:  # a fifth of the cells is left out
            present = torch.rand(x.shape[:2]) > 0.2
            present[:, 0] = True
            order = present.int().argsort(dim=1, descending=True)
            x, present = x.gather(1, order[..., None].expand_as(x)), present.gather(1, order)
        pooled: Tensor = self.pool(x, present)
        return pooled
