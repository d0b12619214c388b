from pathlib import Path

import numpy as np
import pytest

from dualpath.data.captions import tabulate_captions
from dualpath.data.manifest import read_manifest
from dualpath.data.table import ImageRecord, ImageTable
from dualpath.data.tokenizer import Tokenizer
from dualpath.training.sampler import EpochSampler

OPTIONS = {"batch_size": 8, "captions_per_image": 2, "seed": (0, 1, 2)}


@pytest.fixture
def table(shapes, tmp_path):
    images = read_manifest(shapes).split("train").images[:33]
    return tabulate_captions(images, Tokenizer(["red"], "modern", 4), tmp_path)


def test_an_epoch_has_every_image_once_and_no_batch_of_one_image(table):
    sampler = EpochSampler(table, **OPTIONS)
    plans = list(sampler)
    assert len(sampler) == 4
    assert [len(plan.images) for plan in plans] == [8, 8, 8, 9]
    assert sorted(image for plan in plans for image in plan.images) == list(range(33))


def test_each_image_gets_captions_of_its_own_without_repetition(table):
    for plan in EpochSampler(table, **OPTIONS):
        assert (table.owners[plan.captions] == plan.images[plan.owners]).all()
        assert len(set(plan.captions)) == 2 * len(plan.images)
        assert np.bincount(plan.owners).tolist() == [2] * len(plan.images)


def test_an_image_with_fewer_captions_than_requested_gets_all_of_them(table):
    for plan in EpochSampler(table, **{**OPTIONS, "captions_per_image": 9}):
        assert np.bincount(plan.owners).tolist() == [3] * len(plan.images)


def test_an_epoch_continues_from_any_batch(table):
    plans = list(EpochSampler(table, **OPTIONS))
    late = list(EpochSampler(table, **OPTIONS, start=2))
    assert [plan.seed for plan in late] == [plan.seed for plan in plans[2:]]
    for one, other in zip(late, plans[2:], strict=True):
        assert (one.captions == other.captions).all()
        assert (one.images == other.images).all()


def test_another_epoch_has_another_order(table):
    first, other = (
        next(iter(EpochSampler(table, **{**OPTIONS, "seed": (0, 1, epoch)}))) for epoch in (2, 3)
    )
    assert list(other.images) != list(first.images)
    assert other.seed != first.seed


def test_captions_of_an_instance_are_drawn_for_each_of_its_images(tmp_path):
    records = [
        ImageRecord(f"{n}.png", Path(f"{n}.png"), (f"word{n}",), instance, "train", n)
        for n, instance in enumerate(["a", "b", "a"])
    ]
    tokenizer = Tokenizer(["word0", "word1", "word2"], "modern", 4)
    table = tabulate_captions(ImageTable.from_records(records), tokenizer, tmp_path)
    options = {"batch_size": 3, "captions_per_image": 1, "of_instance": True}
    drawn = {
        pair
        for epoch in range(30)
        for plan in EpochSampler(table, **options, seed=(0, 0, epoch))
        for pair in zip(plan.images.tolist(), plan.captions.tolist(), strict=True)
    }
    assert drawn == {(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)}
