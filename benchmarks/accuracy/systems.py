"""The systems that are compared: published peers in our own words, and DualPath.

Each is a module with an image path, a text path and a loss over a batch. Sources:

* VSE++: Faghri et al., BMVC 2018 (GRU, linear image projection, hardest negatives, margin 0.2).
* VSE-infinity: Chen et al., CVPR 2021 (generalised pooling over grid cells and words, BiGRU).
* CLIP-style: Radford et al., 2021 (symmetric softmax over the batch, learnt temperature).
* CMPM + CMPC: Zhang and Lu, ECCV 2018 (projection matching and classification, BiLSTM).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualpath.losses.instance import InstanceClassifier
from dualpath.losses.ranking import contrastive_loss, ranking_loss
from dualpath.models.layers import head
from dualpath.models.text.cnn import TextCNN
from dualpath.models.text.residual_cnn import ResidualTextCNN
from dualpath.training.data import set_word_vectors

DIM = 512


@dataclass(frozen=True)
class Task:
    """What a system is built for: word vectors, (rows, numbers), NaN where none, and classes."""

    words: Tensor
    classes: int
    features: int  # channels of the backbone's last map
    cells: int  # of that map


class Recurrent(nn.Module):
    """A recurrent text path: the last state, or the mean or maximum over the words."""

    def __init__(self, task: Task, kind: type[nn.RNNBase], *, both: bool, pool: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(*task.words.shape, padding_idx=0)
        set_word_vectors(self.embedding, task.words)
        self.rnn = kind(task.words.shape[1], DIM, batch_first=True, bidirectional=both)
        self.pool = GeneralisedPooling() if pool == "generalised" else None
        self.kind = pool

    def forward(self, token_ids: Tensor) -> Tensor:
        lengths = (token_ids != 0).sum(dim=1).clamp(min=1)
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(token_ids), lengths, batch_first=True, enforce_sorted=False
        )
        states, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        if self.rnn.bidirectional:
            states = (states[..., :DIM] + states[..., DIM:]) / 2
        present = torch.arange(states.shape[1]) < lengths[:, None]
        if self.pool is not None:
            return self.pool(states, present)
        if self.kind == "last":
            return states[torch.arange(len(states)), lengths - 1]
        if self.kind == "max":
            return states.masked_fill(~present[..., None], -torch.inf).amax(dim=1)
        return (states * present[..., None]).sum(dim=1) / lengths[:, None]


class GeneralisedPooling(nn.Module):
    """Sort every channel and weigh the ranks by a small recurrent net over their positions."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.width = width
        self.rnn = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.weigh = nn.Linear(width, 1, bias=False)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Pool (batch, positions, channels) where ``present``, (batch, positions)."""
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
        scores = self.weigh(states).squeeze(2).masked_fill(~present, -1e4)
        weights = (scores / 0.1).softmax(dim=1)
        ranked = x.masked_fill(~present[..., None], -1e4).sort(dim=1, descending=True).values
        return (ranked.masked_fill(ranked == -1e4, 0) * weights[..., None]).sum(dim=1)


class GridImages(nn.Module):
    """VSE-infinity's image path: a layer and a residual perceptron a cell, then pooling."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.project = nn.Linear(features, DIM)
        self.perceptron = nn.Sequential(
            nn.Linear(features, DIM // 2), nn.ReLU(), nn.Linear(DIM // 2, DIM)
        )
        self.pool = GeneralisedPooling()

    def forward(self, cells: Tensor) -> Tensor:
        """Embed (batch, cells, features)."""
        x = self.project(cells) + self.perceptron(cells)
        present = torch.ones(x.shape[:2], dtype=torch.bool)
        if self.training:  # a fifth of the cells is left out
            present = torch.rand(x.shape[:2]) > 0.2
            present[:, 0] = True
            order = present.int().argsort(dim=1, descending=True)
            x, present = x.gather(1, order[..., None].expand_as(x)), present.gather(1, order)
        return self.pool(x, present)


class System(nn.Module):
    """Both paths and what they are trained by."""

    def __init__(self, images: nn.Module, texts: nn.Module) -> None:
        super().__init__()
        self.images, self.texts = images, texts

    def loss(self, images: Tensor, texts: Tensor, owners: Tensor, ids: Tensor) -> Tensor:
        raise NotImplementedError

    def sparse_parameters(self) -> list[nn.Parameter]:
        """Parameters of which a step reaches some rows alone."""
        return []


class Hinge(System):
    """Hardest negative of the batch, both directions, margin 0.2."""

    def loss(self, images: Tensor, texts: Tensor, owners: Tensor, ids: Tensor) -> Tensor:
        return ranking_loss(images, texts, owners, ids, margin=0.2, negatives="hardest")


class Contrastive(System):
    """Symmetric softmax over the batch with a learnt temperature."""

    def __init__(self, images: nn.Module, texts: nn.Module) -> None:
        super().__init__(images, texts)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def loss(self, images: Tensor, texts: Tensor, owners: Tensor, ids: Tensor) -> Tensor:
        scale: float = self.log_scale.exp().clamp(max=100)  # type: ignore[assignment]
        return contrastive_loss(images, texts, owners, ids, temperature=1 / scale)


class Projection(System):
    """Cross-modal projection matching, and classification of projections."""

    def __init__(self, images: nn.Module, texts: nn.Module, classes: int) -> None:
        super().__init__(images, texts)
        self.weight = nn.Parameter(torch.randn(classes, DIM) / math.sqrt(DIM))

    def loss(self, images: Tensor, texts: Tensor, owners: Tensor, ids: Tensor) -> Tensor:
        images, ids = images[owners], ids[owners]
        same = (ids[:, None] == ids).float()
        wanted = same / same.sum(dim=1, keepdim=True)
        total = images.new_zeros(())
        for own, other in ((images, texts), (texts, images)):
            logits = own @ F.normalize(other).T
            matching = logits.softmax(1) * (logits.log_softmax(1) - (wanted + 1e-8).log())
            onto = F.normalize(other)
            projected = (own * onto).sum(dim=1, keepdim=True) * onto
            classified = F.cross_entropy(projected @ F.normalize(self.weight).T, ids)
            total = total + matching.sum(dim=1).mean() + classified
        return total


class Instance(System):
    """DualPath: the shared classifier of the instance loss beside the softmax of the batch."""

    def __init__(
        self, images: nn.Module, texts: nn.Module, classes: int, fraction: float = 1.0
    ) -> None:
        super().__init__(images, texts)
        self.classifier = InstanceClassifier(DIM, torch.arange(classes), fraction=fraction)

    def sparse_parameters(self) -> list[nn.Parameter]:
        return self.classifier.weights() if self.classifier.fraction < 1 else []

    def loss(self, images: Tensor, texts: Tensor, owners: Tensor, ids: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            image_loss, text_loss = self.classifier(
                images, texts, ids, ids[owners], scale=16.0, dropout=0.5
            )
        contrastive = contrastive_loss(images, texts, owners, ids, temperature=0.05)
        return 0.3 * (image_loss + text_loss) + contrastive


@dataclass(frozen=True)
class Row:
    """A row of the table: how a system is built, the rates it may choose from, what it sees.

    grid: cells a side of the last map.
    """

    build: Callable[[Task], System]
    rates: tuple[float, ...]
    grid: int = 1
    word_dropout: float = 0.0


def _linear(task: Task) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(task.cells * task.features, DIM))


def _head(task: Task, dropout: float = 0.0) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), head(task.cells * task.features, task.features, DIM, dropout)
    )


def _paper_cnn(task: Task) -> nn.Module:
    rows, numbers = task.words.shape
    cnn = TextCNN(
        rows, embedding_dim=numbers, dim=DIM, width=0.25, depths=(1, 1, 1, 1), padding="masked"
    )
    return _with_words(cnn, task)


def _residual_cnn(task: Task) -> nn.Module:
    rows, numbers = task.words.shape
    cnn = ResidualTextCNN(rows, embedding_dim=numbers, dim=DIM, channels=256, layers=2, dropout=0.2)
    return _with_words(cnn, task)


def _with_words(cnn: TextCNN | ResidualTextCNN, task: Task) -> nn.Module:
    set_word_vectors(cnn.embedding, task.words)
    return cnn


ROWS = {
    "VSE++ (GRU)": Row(
        lambda task: Hinge(_linear(task), Recurrent(task, nn.GRU, both=False, pool="last")),
        rates=(2e-4, 1e-3),
    ),
    "VSE++ (BiGRU)": Row(
        lambda task: Hinge(_linear(task), Recurrent(task, nn.GRU, both=True, pool="mean")),
        rates=(2e-4, 1e-3),
    ),
    "VSE-infinity (GPO, 7 x 7 cells)": Row(
        lambda task: Hinge(
            GridImages(task.features), Recurrent(task, nn.GRU, both=True, pool="generalised")
        ),
        rates=(5e-4, 1e-3),
        grid=7,
    ),
    "CMPM + CMPC (BiLSTM)": Row(
        lambda task: Projection(
            _linear(task), Recurrent(task, nn.LSTM, both=True, pool="max"), task.classes
        ),
        rates=(2e-4, 1e-3),
    ),
    "CLIP-style (BiGRU)": Row(
        lambda task: Contrastive(_head(task), Recurrent(task, nn.GRU, both=True, pool="mean")),
        rates=(1e-3, 2e-3, 4e-3),
    ),
    "CLIP-style (BiGRU), DualPath's dropout": Row(
        lambda task: Contrastive(_head(task, 0.2), Recurrent(task, nn.GRU, both=True, pool="mean")),
        rates=(1e-3, 2e-3, 4e-3),
        word_dropout=0.05,
    ),
    "CLIP-style (the paper's text CNN)": Row(
        lambda task: Contrastive(_head(task), _paper_cnn(task)),
        rates=(1e-3, 2e-3, 4e-3),
    ),
    "DualPath without instance loss": Row(
        lambda task: Contrastive(_head(task, 0.2), _residual_cnn(task)),
        rates=(1e-3, 2.5e-3, 4e-3),
        word_dropout=0.05,
    ),
    "DualPath": Row(
        lambda task: Instance(_head(task, 0.2), _residual_cnn(task), task.classes),
        rates=(1e-3, 2.5e-3, 4e-3),
        word_dropout=0.05,
    ),
    "DualPath, a tenth of the classes a step": Row(
        lambda task: Instance(_head(task, 0.2), _residual_cnn(task), task.classes, fraction=0.1),
        rates=(1e-3, 2.5e-3, 4e-3),
        word_dropout=0.05,
    ),
}
