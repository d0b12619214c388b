"""From the plan of a batch to its tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from dualpath.data.captions import CaptionTable
from dualpath.data.images import open_image
from dualpath.data.transforms import View, decode_size, fixed_views, preprocess
from dualpath.training.sampler import BatchPlan
from dualpath.types import IntArray, Vectors

_MEMORY_SHARE = 0.5  # of a GPU's free memory, for cached features


class Batch(NamedTuple):
    """The tensors of a batch of n images and m captions.

    Attributes:
        images: (n, 3, size, size) uint8 pixels, or (n, backbone_dim) float32 cached features. With
            several processes, this process's share of them; all else is of the whole batch.
        token_ids: (m, words) int64, left-aligned, padded with 0; or (m, feature_dim) float32 cached
            features of a frozen sentence encoder.
        owners: (m,) int64, which of the n images each caption describes.
        instance_ids: (n,) int64, the class of each image.
        targets: (m, dim) float32, the teacher's embeddings of the captions.
    """

    images: torch.Tensor
    token_ids: torch.Tensor
    owners: torch.Tensor
    instance_ids: torch.Tensor
    targets: torch.Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        tensors = {name: t for name, t in self._asdict().items() if t is not None}
        return Batch(**{name: t.to(device, non_blocking=True) for name, t in tensors.items()})


@dataclass(frozen=True)
class PixelSource:
    """Images that are decoded when they are needed, each time in a newly drawn view."""

    paths: Sequence[Path]
    size: int
    flip: bool
    crops: int | str

    def draw(self, images: IntArray, seed: int, own: slice) -> torch.Tensor:
        """Return pixels of the images in ``own``, (n, 3, size, size) uint8."""
        generator = np.random.default_rng(seed)
        views = [self._view(generator) for _ in images]
        pixels = torch.empty(own.stop - own.start, 3, self.size, self.size, dtype=torch.uint8)
        for row, (image, view) in enumerate(zip(images[own], views[own], strict=True)):
            decoded = open_image(self.paths[image], side=decode_size(self.size))
            pixels[row] = torch.from_numpy(preprocess(decoded, view, self.size))
        return pixels

    def _view(self, generator: np.random.Generator) -> View:
        if self.crops == "random":
            flipped = self.flip and bool(generator.integers(2))
            return View(int(generator.integers(2**31)), flipped)
        views = fixed_views(flip=self.flip, crops=int(self.crops))
        return views[generator.integers(len(views))]


@dataclass(frozen=True)
class FeatureSource:
    """Backbone features computed beforehand, of which one of the fixed views is drawn each time.

    Attributes:
        features: for each view a (rows, dim) float32 array.
        rows: for each view the row of each image, (images,) int64.
    """

    features: Sequence[Vectors]
    rows: Sequence[IntArray]

    def to(self, device: torch.device) -> "FeatureSource | DeviceFeatureSource":
        """Return the features on a GPU if they fit there, else this source.

        At most half of the free memory is used.
        """
        if device.type != "cuda":
            return self
        size = sum(features.nbytes for features in self.features)
        free, _ = torch.cuda.mem_get_info(device)
        if size > _MEMORY_SHARE * free:
            return self
        return DeviceFeatureSource(
            [
                torch.from_numpy(features[rows]).to(device)
                for features, rows in zip(self.features, self.rows, strict=True)
            ]
        )

    def draw(self, images: IntArray, seed: int, own: slice) -> torch.Tensor:
        """Return features of the images in ``own``, (n, dim) float32."""
        views = np.random.default_rng(seed).integers(len(self.features), size=len(images))
        drawn = np.empty((own.stop - own.start, self.features[0].shape[1]), np.float32)
        for view, (features, rows) in enumerate(zip(self.features, self.rows, strict=True)):
            places = np.flatnonzero(views[own] == view)
            drawn[places] = features[rows[images[own][places]]]
        return torch.from_numpy(drawn)


@dataclass(frozen=True)
class DeviceFeatureSource:
    """The features of a :class:`FeatureSource` in the memory of a device.

    Attributes:
        features: for each view a (images, dim) float32 tensor.
    """

    features: Sequence[torch.Tensor]

    def draw(self, images: IntArray, seed: int, own: slice) -> torch.Tensor:
        """Return the same rows as :meth:`FeatureSource.draw`, on the device."""
        views = np.random.default_rng(seed).integers(len(self.features), size=len(images))
        device = self.features[0].device
        drawn = self.features[0].new_empty(own.stop - own.start, self.features[0].shape[1])
        for view, features in enumerate(self.features):
            places = np.flatnonzero(views[own] == view)
            rows = torch.from_numpy(images[own][places]).to(device)
            drawn[torch.from_numpy(places).to(device)] = features[rows]
        return drawn


class PairDataset(Dataset[Batch]):
    """Makes the batch of a plan; for ``DataLoader(sampler=EpochSampler(...), batch_size=None)``.

    Args:
        text_features: (captions, feature_dim) float32, used instead of token ids.
        targets: (captions, dim) float32, the teacher's embeddings.
    """

    def __init__(
        self,
        table: CaptionTable,
        images: PixelSource | FeatureSource | DeviceFeatureSource,
        text_features: Vectors | None = None,
        targets: Vectors | None = None,
    ) -> None:
        self._table = table
        self.images = images
        self._text_features = text_features
        self._targets = targets

    def __getitem__(self, plan: BatchPlan) -> Batch:
        targets = None if self._targets is None else self._targets[plan.captions]
        return Batch(
            images=self.images.draw(plan.images, plan.seed, plan.own),
            token_ids=torch.from_numpy(self._text_input(plan.captions)),
            owners=torch.from_numpy(plan.owners),
            instance_ids=torch.from_numpy(self._table.instance_ids[plan.images]),
            targets=None if targets is None else torch.from_numpy(targets),
        )

    def _text_input(self, captions: IntArray) -> npt.NDArray[Any]:
        if self._text_features is not None:
            return self._text_features[captions]
        return self._table.tokens_of(captions)
