"""Batches of pictures with their captions.

Everything that is drawn at random is drawn from (seed, stage, epoch, place in the epoch), never
from the history of a generator, so training can go on from any step of any epoch.
"""

import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from dualpath.data.items import Items
from dualpath.data.mapped import open_mapped
from dualpath.data.pictures import open_picture
from dualpath.data.tokenizer import Tokenizer, trim_padding
from dualpath.data.views import View, fixed_views, render, side_to_decode
from dualpath.processes import share

_ENCODED = 10_000  # captions at a time
_STORED = np.dtype("<i4")


class BatchPlan(NamedTuple):
    """Which pictures and captions make a batch, and the seed of whatever else is drawn for it.

    own: which of the pictures this process embeds, where several train.
    """

    pictures: npt.NDArray[np.int64]
    captions: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]
    seed: int
    own: slice


class Batch(NamedTuple):
    """A batch on its way to the network; n pictures, m captions.

    pictures: (n, 3, size, size) uint8, or (n, backbone dim) float32 cached features; where several
    processes train, only this one's share of them (all else is of the whole batch).
    token_ids: (m, words) int64, left-aligned, padded with 0; or (m, width) float32, kept features
    of a frozen sentence encoder.
    owners: (m,) int64, which of the n pictures each caption describes.
    instance_ids: (n,) int64, the class of each picture.
    targets: (m, dim) float32, where a teacher embeds the captions.
    """

    pictures: torch.Tensor
    token_ids: torch.Tensor
    owners: torch.Tensor
    instance_ids: torch.Tensor
    targets: torch.Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        tensors = {name: t for name, t in self._asdict().items() if t is not None}
        return Batch(**{name: t.to(device, non_blocking=True) for name, t in tensors.items()})


@dataclass(frozen=True)
class CaptionTable:
    """The captions of a list of items, encoded once.

    token_ids: (captions, max_words) int32, mapped from a file. first: (items + 1,) int64; the
    captions of item i are rows first[i] to first[i + 1]. instance_ids: (items,) int64, numbered by
    first appearance.
    """

    token_ids: npt.NDArray[np.int32]
    first: npt.NDArray[np.int64]
    instance_ids: npt.NDArray[np.int64]

    @property
    def instances(self) -> int:
        """Number of instances, the classes of the instance loss."""
        return int(self.instance_ids.max()) + 1

    def tokens_of(self, captions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the words of captions, (len(captions), words) int64, cut to the longest."""
        return trim_padding(np.asarray(self.token_ids[captions], np.int64))

    def captions_of(self, item: int) -> npt.NDArray[np.int64]:
        """Return the rows of an item's captions."""
        return np.arange(self.first[item], self.first[item + 1])

    def captions_of_instance(self, item: int) -> npt.NDArray[np.int64]:
        """Return the rows of the captions of every item of the item's instance."""
        begin, end = np.searchsorted(self._sorted_instances, self.instance_ids[item] + [0, 1])
        return np.concatenate([self.captions_of(i) for i in self._by_instance[begin:end]])

    @cached_property
    def _by_instance(self) -> npt.NDArray[np.int64]:
        return np.argsort(self.instance_ids, kind="stable")

    @cached_property
    def _sorted_instances(self) -> npt.NDArray[np.int64]:
        return self.instance_ids[self._by_instance]

    @cached_property
    def owners(self) -> npt.NDArray[np.int64]:
        """The item of each caption, (captions,) int64."""
        return np.repeat(np.arange(len(self.instance_ids)), np.diff(self.first))


def tabulate_captions(items: Items, tokenizer: Tokenizer, cache: Path) -> CaptionTable:
    """Encode the captions of items into a file of the cache folder, and number their instances."""
    first = np.concatenate([[0], np.cumsum(items.caption_counts)])
    shape = int(first[-1]), tokenizer.max_words
    folder = cache / "captions"
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.blake2b(digest_size=16)
    partial = folder / f"{os.getpid()}.partial"
    captions = items.captions
    try:
        with partial.open("wb") as file:
            while chunk := list(itertools.islice(captions, _ENCODED)):
                rows = tokenizer.encode(chunk).astype(_STORED).tobytes()
                digest.update(rows)
                file.write(rows)
        path = folder / f"{digest.hexdigest()}-{shape[1]}.i32"
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return CaptionTable(open_mapped(path, _STORED, shape), first, items.instance_numbers)


class EpochPlan:
    """The batches of one epoch: every picture once, with captions drawn for it.

    Args:
        table: the captions; each item needs at least one.
        batch_size: pictures in a batch; a last batch of one picture joins the batch before it.
        captions_per_picture: captions drawn for a picture, without repetition.
        of_instance: draw them from the captions of the picture's whole instance.
        seed: (seed, stage, epoch).
        start: batches to leave out, those done before an interruption.
    """

    def __init__(
        self,
        table: CaptionTable,
        *,
        batch_size: int,
        captions_per_picture: int,
        seed: tuple[int, int, int],
        of_instance: bool = False,
        start: int = 0,
    ) -> None:
        self._table = table
        self._captions_per_picture = captions_per_picture
        self._pool_of = table.captions_of_instance if of_instance else table.captions_of
        self._seed = seed
        self._start = start
        order = np.random.default_rng(seed).permutation(len(table.instance_ids))
        cuts = np.arange(batch_size, len(order), batch_size)
        if len(cuts) and len(order) - cuts[-1] == 1:
            cuts = cuts[:-1]
        self._batches = np.split(order, cuts)

    def __len__(self) -> int:
        """Batches of the whole epoch, those left out included."""
        return len(self._batches)

    def __iter__(self) -> Iterator[BatchPlan]:
        for number in range(self._start, len(self._batches)):
            yield self._plan(number)

    def _plan(self, number: int) -> BatchPlan:
        pictures = self._batches[number]
        generator = np.random.default_rng((*self._seed, number))
        captions: list[npt.NDArray[np.int64]] = []
        for picture in pictures:
            pool = self._pool_of(int(picture))
            captions.append(generator.permutation(pool)[: self._captions_per_picture])
        return BatchPlan(
            pictures=pictures,
            captions=np.concatenate(captions),
            owners=np.repeat(np.arange(len(pictures)), [len(drawn) for drawn in captions]),
            seed=int(generator.integers(2**31)),
            own=share(len(pictures)),
        )


@dataclass(frozen=True)
class PixelPictures:
    """Pictures decoded when they are asked for, each time in a freshly drawn view."""

    paths: Sequence[Path]
    size: int
    flip: bool
    crops: int | str

    def draw(self, pictures: npt.NDArray[np.int64], seed: int, own: slice) -> torch.Tensor:
        """Return pixels of the pictures in ``own``, (n, 3, size, size) uint8."""
        generator = np.random.default_rng(seed)
        views = [self._view(generator) for _ in pictures]
        pixels = torch.empty(own.stop - own.start, 3, self.size, self.size, dtype=torch.uint8)
        for place, (picture, view) in enumerate(zip(pictures[own], views[own], strict=True)):
            decoded = open_picture(self.paths[picture], side=side_to_decode(self.size))
            pixels[place] = render(decoded, view, self.size)
        return pixels

    def _view(self, generator: np.random.Generator) -> View:
        if self.crops == "random":
            flipped = self.flip and bool(generator.integers(2))
            return View(int(generator.integers(2**31)), flipped)
        views = fixed_views(flip=self.flip, crops=int(self.crops))
        return views[generator.integers(len(views))]


@dataclass(frozen=True)
class FeaturePictures:
    """Backbone features computed beforehand, in one of the fixed views drawn each time.

    features: for each view a (rows, dim) float32 array; rows: for each view the row of each item.
    """

    features: Sequence[npt.NDArray[np.float32]]
    rows: Sequence[npt.NDArray[np.int64]]

    def draw(self, pictures: npt.NDArray[np.int64], seed: int, own: slice) -> torch.Tensor:
        """Return features of the pictures in ``own``, (n, dim) float32."""
        views = np.random.default_rng(seed).integers(len(self.features), size=len(pictures))
        drawn = np.empty((own.stop - own.start, self.features[0].shape[1]), np.float32)
        for place, (picture, view) in enumerate(zip(pictures[own], views[own], strict=True)):
            drawn[place] = self.features[view][self.rows[view][picture]]
        return torch.from_numpy(drawn)


class PairDataset(Dataset[Batch]):
    """Make the batch of a plan; used with ``DataLoader(sampler=plans, batch_size=None)``.

    Args:
        sentences: (captions, width) float32, given instead of the tokens.
        targets: (captions, dim) float32, of a teacher.
    """

    def __init__(
        self,
        table: CaptionTable,
        pictures: PixelPictures | FeaturePictures,
        sentences: npt.NDArray[np.float32] | None = None,
        targets: npt.NDArray[np.float32] | None = None,
    ) -> None:
        self._table = table
        self.pictures = pictures
        self._sentences = sentences
        self._targets = targets

    def __getitem__(self, plan: BatchPlan) -> Batch:
        targets = None if self._targets is None else self._targets[plan.captions]
        return Batch(
            pictures=self.pictures.draw(plan.pictures, plan.seed, plan.own),
            token_ids=torch.from_numpy(self._read(plan.captions)),
            owners=torch.from_numpy(plan.owners),
            instance_ids=torch.from_numpy(self._table.instance_ids[plan.pictures]),
            targets=None if targets is None else torch.from_numpy(targets),
        )

    def _read(self, captions: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        if self._sentences is not None:
            return self._sentences[captions]
        return self._table.tokens_of(captions)
