import numpy as np
import pytest
import torch

from dualpath.data.captions import tabulate_captions
from dualpath.data.images import open_image
from dualpath.data.manifest import read_manifest
from dualpath.data.tokenizer import Tokenizer, count_words
from dualpath.data.transforms import View, preprocess
from dualpath.training.batches import FeatureSource, PairDataset, PixelSource
from dualpath.training.sampler import EpochSampler

IMAGES = np.array([5, 2, 9, 0])
ALL = slice(0, 4)


@pytest.fixture(scope="module")
def images(shapes):
    return read_manifest(shapes).split("train").images


def views_of(path, views):
    """The pixels of an image in each of some views."""
    decoded = open_image(path, side=64)
    return [torch.from_numpy(preprocess(decoded, view, 32)) for view in views]


@pytest.mark.parametrize(("flip", "crops"), [(False, 0), (True, 0), (False, 2), (True, 2)])
def test_pixels_are_of_one_of_the_fixed_views(images, flip, crops):
    source = PixelSource(images.paths, 32, flip, crops)
    views = [
        View(crop, mirrored)
        for crop in [None, *range(crops)]
        for mirrored in ([False, True] if flip else [False])
    ]
    drawn = set()
    for seed in range(20):
        for image, pixels in zip(IMAGES, source.draw(IMAGES, seed, ALL), strict=True):
            equal = [pixels.equal(known) for known in views_of(images.paths[image], views)]
            assert any(equal)
            drawn.add(equal.index(True))
    assert len(drawn) == len(views)


def test_random_crops_differ_from_step_to_step_and_not_within_one(images):
    source = PixelSource(images.paths, 32, False, "random")
    first, again, other = (source.draw(IMAGES, seed, ALL) for seed in (1, 1, 2))
    assert first.equal(again)
    assert not any(one.equal(two) for one, two in zip(first, other, strict=True))


def test_a_share_of_the_images_has_the_pixels_of_the_whole_batch(images):
    source = PixelSource(images.paths, 32, True, "random")
    whole = source.draw(IMAGES, 3, ALL)
    assert source.draw(IMAGES, 3, slice(1, 3)).equal(whole[1:3])


def test_features_are_of_one_of_the_views():
    features = [np.full((10, 3), view, np.float32) for view in (0, 100)]
    for number in range(10):
        features[0][number] += number
        features[1][number] += number
    rows = [np.arange(10), np.arange(10)[::-1].copy()]  # the second view is stored backwards
    source = FeatureSource(features, rows)
    drawn = np.concatenate([source.draw(IMAGES, seed, ALL).numpy() for seed in range(20)])
    images = np.tile(IMAGES, 20)
    upright, mirrored = drawn[:, 0] == images, drawn[:, 0] == 109 - images
    assert (upright | mirrored).all()
    assert upright.any()
    assert mirrored.any()
    assert source.draw(IMAGES, 7, slice(1, 3)).equal(source.draw(IMAGES, 7, ALL)[1:3])


def test_a_batch_has_the_tokens_instances_and_targets_of_its_plan(images, tmp_path):
    tokenizer = Tokenizer(list(count_words(images.captions, "modern")), "modern", 14)
    table = tabulate_captions(images, tokenizer, tmp_path)
    targets = np.random.default_rng(0).normal(size=(len(table.token_ids), 4)).astype(np.float32)
    source = PixelSource(images.paths, 32, False, 0)
    dataset = PairDataset(table, source, targets=targets)
    plan = EpochSampler(table, batch_size=8, captions_per_image=2, seed=(0, 0, 0)).plan(3)
    batch = dataset[plan]
    captions = list(images.captions)
    expected = tokenizer.encode([captions[row] for row in plan.captions])
    assert batch.token_ids.tolist() == expected[:, : batch.token_ids.shape[1]].tolist()
    assert not expected[:, batch.token_ids.shape[1] :].any()
    assert batch.owners.tolist() == plan.owners.tolist()
    assert batch.instance_ids.tolist() == table.instance_ids[plan.images].tolist()
    assert batch.targets.numpy().tolist() == targets[plan.captions].tolist()
    assert batch.images.shape == (8, 3, 32, 32)
    assert batch.to(torch.device("cpu")).targets.equal(batch.targets)
    features = np.arange(2 * len(table.token_ids), dtype=np.float32).reshape(-1, 2)
    cached = PairDataset(table, source, text_features=features)[plan]
    assert cached.token_ids.tolist() == features[plan.captions].tolist()
    assert cached.targets is None
    assert cached.to(torch.device("cpu")).targets is None
