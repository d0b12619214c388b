"""The systems that are compared: published peers and DualPath.

Each is an image encoder, a text encoder and a loss over a batch. The losses of the peers are
written from their papers:

* VSE++: Faghri et al., BMVC 2018 (hardest negatives, margin 0.2).
* VSE-infinity: Chen et al., CVPR 2021 (as VSE++).
* CLIP-style: Radford et al., 2021 (symmetric softmax over the batch, learned temperature).
* CMPM + CMPC: Zhang and Lu, ECCV 2018 (projection matching and classification).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from peer_encoders import DIM, GridImageEncoder, RecurrentTextEncoder, Task
from torch import Tensor, nn

from dualpath.losses.contrastive import contrastive_loss
from dualpath.losses.instance import InstanceClassifier
from dualpath.losses.ranking import ranking_loss
from dualpath.models.layers import projection_head
from dualpath.models.text.cnn import TextCNN
from dualpath.models.text.residual_cnn import ResidualTextCNN

MAX_LOGIT_SCALE = 100


class System(nn.Module):
    """Both encoders and the loss that trains them."""

    def __init__(self, image_encoder: nn.Module, text_encoder: nn.Module) -> None:
        super().__init__()
        self.image_encoder, self.text_encoder = image_encoder, text_encoder

    def loss(self, images: Tensor, texts: Tensor, owners: Tensor, ids: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            images: (n, DIM). texts: (m, DIM).
            owners: (m,) int64, the image of each text. ids: (n,) int64, the instance of each image.
        """
        raise NotImplementedError

    def sparse_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of which a step changes some rows only."""
        return []


class Hinge(System):
    """Hardest negative of the batch, both directions, margin 0.2."""

    def loss(self, images: Tensor, texts: Tensor, owners: Tensor, ids: Tensor) -> Tensor:
        return ranking_loss(images, texts, owners, ids, margin=0.2, negatives="hardest")


class Contrastive(System):
    """Symmetric softmax over the batch with a learned temperature."""

    def __init__(self, image_encoder: nn.Module, text_encoder: nn.Module) -> None:
        super().__init__(image_encoder, text_encoder)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def loss(self, images: Tensor, texts: Tensor, owners: Tensor, ids: Tensor) -> Tensor:
        scale: float = self.log_scale.exp().clamp(max=MAX_LOGIT_SCALE)  # type: ignore[assignment]
        return contrastive_loss(images, texts, owners, ids, temperature=1 / scale)


class Projection(System):
    """Cross-modal projection matching, and classification of the projections."""

    def __init__(self, image_encoder: nn.Module, text_encoder: nn.Module, classes: int) -> None:
        super().__init__(image_encoder, text_encoder)
        self.weight = nn.Parameter(torch.randn(classes, DIM) / math.sqrt(DIM))

    def loss(self, images: Tensor, texts: Tensor, owners: Tensor, ids: Tensor) -> Tensor:
        images, ids = images[owners], ids[owners]
        same = (ids[:, None] == ids).float()
        expected = same / same.sum(dim=1, keepdim=True)
        total = images.new_zeros(())
        for own, other in ((images, texts), (texts, images)):
            direction = F.normalize(other)
            logits = own @ direction.T
            matching = logits.softmax(1) * (logits.log_softmax(1) - (expected + 1e-8).log())
            projected = (own * direction).sum(dim=1, keepdim=True) * direction
            classified = F.cross_entropy(projected @ F.normalize(self.weight).T, ids)
            total = total + matching.sum(dim=1).mean() + classified
        return total


class Instance(System):
    """DualPath: the instance loss with the shared classifier, and the softmax over the batch."""

    def __init__(
        self,
        image_encoder: nn.Module,
        text_encoder: nn.Module,
        classes: int,
        sample_rate: float = 1.0,
    ) -> None:
        super().__init__(image_encoder, text_encoder)
        self.classifier = InstanceClassifier(DIM, torch.arange(classes), sample_rate=sample_rate)

    def sparse_parameters(self) -> list[nn.Parameter]:
        return self.classifier.weights() if self.classifier.sample_rate < 1 else []

    def loss(self, images: Tensor, texts: Tensor, owners: Tensor, ids: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            image_loss, text_loss = self.classifier(
                images, texts, ids, ids[owners], logit_scale=16.0, dropout=0.5
            )
        contrastive = contrastive_loss(images, texts, owners, ids, temperature=0.05)
        total: Tensor = 0.3 * (image_loss + text_loss) + contrastive
        return total


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        build: builds the system. lrs: the learning rates to choose from.
        grid: cells per side of the last feature map that the image encoder sees.
        word_dropout: rate at which words are replaced by ``[UNK]`` in training.
    """

    build: Callable[[Task], System]
    lrs: tuple[float, ...]
    grid: int = 1
    word_dropout: float = 0.0


def _linear(task: Task) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(task.cells * task.features, DIM))


def _head(task: Task, dropout: float = 0.0) -> nn.Module:
    width = task.cells * task.features
    return nn.Sequential(nn.Flatten(), projection_head(width, task.features, DIM, dropout=dropout))


def _paper_cnn(task: Task) -> nn.Module:
    rows, embedding_dim = task.word_vectors.shape
    cnn = TextCNN(
        rows,
        embedding_dim=embedding_dim,
        dim=DIM,
        width=0.25,
        depths=(1, 1, 1, 1),
        padding="masked",
    )
    cnn.set_word_vectors(task.word_vectors)
    return cnn


def _residual_cnn(task: Task) -> nn.Module:
    rows, embedding_dim = task.word_vectors.shape
    cnn = ResidualTextCNN(
        rows, embedding_dim=embedding_dim, dim=DIM, channels=256, layers=2, dropout=0.2
    )
    cnn.set_word_vectors(task.word_vectors)
    return cnn


def _gru(task: Task) -> nn.Module:
    return RecurrentTextEncoder(task, nn.GRU, bidirectional=False, pooling="last")


def _bigru(task: Task) -> nn.Module:
    return RecurrentTextEncoder(task, nn.GRU, bidirectional=True, pooling="mean")


def _generalised_bigru(task: Task) -> nn.Module:
    return RecurrentTextEncoder(task, nn.GRU, bidirectional=True, pooling="generalised")


def _bilstm(task: Task) -> nn.Module:
    return RecurrentTextEncoder(task, nn.LSTM, bidirectional=True, pooling="max")


ROWS = {
    "VSE++ (GRU)": Row(lambda task: Hinge(_linear(task), _gru(task)), lrs=(2e-4, 1e-3)),
    "VSE++ (BiGRU)": Row(lambda task: Hinge(_linear(task), _bigru(task)), lrs=(2e-4, 1e-3)),
    "VSE-infinity (GPO, 7 x 7 cells)": Row(
        lambda task: Hinge(GridImageEncoder(task.features), _generalised_bigru(task)),
        lrs=(5e-4, 1e-3),
        grid=7,
    ),
    "CMPM + CMPC (BiLSTM)": Row(
        lambda task: Projection(_linear(task), _bilstm(task), task.classes), lrs=(2e-4, 1e-3)
    ),
    "CLIP-style (BiGRU)": Row(
        lambda task: Contrastive(_head(task), _bigru(task)), lrs=(1e-3, 2e-3, 4e-3)
    ),
    "CLIP-style (BiGRU), DualPath's dropout": Row(
        lambda task: Contrastive(_head(task, 0.2), _bigru(task)),
        lrs=(1e-3, 2e-3, 4e-3),
        word_dropout=0.05,
    ),
    "CLIP-style (the paper's text CNN)": Row(
        lambda task: Contrastive(_head(task), _paper_cnn(task)), lrs=(1e-3, 2e-3, 4e-3)
    ),
    "DualPath without instance loss": Row(
        lambda task: Contrastive(_head(task, 0.2), _residual_cnn(task)),
        lrs=(1e-3, 2.5e-3, 4e-3),
        word_dropout=0.05,
    ),
    "DualPath": Row(
        lambda task: Instance(_head(task, 0.2), _residual_cnn(task), task.classes),
        lrs=(1e-3, 2.5e-3, 4e-3),
        word_dropout=0.05,
    ),
    "DualPath, a tenth of the classes per step": Row(
        lambda task: Instance(_head(task, 0.2), _residual_cnn(task), task.classes, sample_rate=0.1),
        lrs=(1e-3, 2.5e-3, 4e-3),
        word_dropout=0.05,
    ),
}
