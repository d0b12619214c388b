"""Which images and captions form each batch of an epoch.

Everything random is drawn from (seed, stage, epoch, batch), never from the history of a generator,
so training can continue from any step of any epoch.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dualpath.data.captions import CaptionTable
from dualpath.distributed.collectives import local_slice
from dualpath.types import IntArray


class BatchPlan(NamedTuple):
    """The images and captions of a batch, and the seed of everything else that is drawn for it.

    Attributes:
        images: (n,) rows of the images.
        captions: (m,) rows of the captions.
        owners: (m,) which of the n images each caption describes.
        seed: of views and augmentation.
        own: which of the n images this process embeds.
    """

    images: IntArray
    captions: IntArray
    owners: IntArray
    seed: int
    own: slice


class EpochSampler:
    """The batches of one epoch: every image once, with captions drawn for it.

    Args:
        table: the captions; each image needs at least one.
        batch_size: images in a batch. A last batch of a single image joins the one before it.
        captions_per_image: captions drawn for an image, without repetition.
        of_instance: draw them from the captions of the image's whole instance.
        seed: (seed, stage, epoch).
        start: number of batches to skip, those done before an interruption.
    """

    def __init__(
        self,
        table: CaptionTable,
        *,
        batch_size: int,
        captions_per_image: int,
        seed: tuple[int, int, int],
        of_instance: bool = False,
        start: int = 0,
    ) -> None:
        self._captions_per_image = captions_per_image
        self._captions_of = table.captions_of_instance if of_instance else table.captions_of
        self._seed = seed
        self._start = start
        order = np.random.default_rng(seed).permutation(len(table.instance_ids))
        cuts = np.arange(batch_size, len(order), batch_size)
        if len(cuts) and len(order) - cuts[-1] == 1:
            cuts = cuts[:-1]
        self._batches = np.split(order, cuts)

    def __len__(self) -> int:
        """Number of batches of the whole epoch, including the skipped ones."""
        return len(self._batches)

    def __iter__(self) -> Iterator[BatchPlan]:
        for number in range(self._start, len(self._batches)):
            yield self.plan(number)

    def plan(self, number: int) -> BatchPlan:
        """Return the plan of a batch, counted from 0."""
        images = self._batches[number]
        generator = np.random.default_rng((*self._seed, number))
        captions: list[IntArray] = []
        for image in images:
            pool = self._captions_of(int(image))
            captions.append(generator.permutation(pool)[: self._captions_per_image])
        return BatchPlan(
            images=images,
            captions=np.concatenate(captions),
            owners=np.repeat(np.arange(len(images)), [len(drawn) for drawn in captions]),
            seed=int(generator.integers(2**31)),
            own=local_slice(len(images)),
        )
