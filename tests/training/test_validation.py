import numpy as np
import pytest
import torch

import dualpath
from dualpath.data.manifest import read_manifest
from dualpath.data.transforms import fixed_views
from dualpath.evaluation.evaluate import evaluate
from dualpath.training.feature_cache import cached_features
from dualpath.training.validation import validate


@pytest.fixture(scope="module")
def model(bundle):
    return dualpath.load(bundle)


@pytest.fixture(scope="module")
def images(shapes):
    return read_manifest(shapes).split("val").images


def test_validation_measures_what_evaluation_measures(model, images, shapes, cache):
    metrics = validate(model, images, None)
    result = evaluate(model, shapes, split="val", cache=cache)
    assert dualpath.EvaluationResult.from_dict(metrics) == result
    assert metrics["split"] == "val"


def test_cached_features_give_the_same_metrics(model, images, tmp_path):
    hashes = np.array([f"{number:032x}" for number in range(len(images))], "S32")
    views = fixed_views(flip=True, crops=0)
    source = cached_features(model.network.image_encoder, images.paths, hashes, views, 32, tmp_path)
    features = [
        torch.from_numpy(vectors[rows])
        for vectors, rows in zip(source.features, source.rows, strict=True)
    ]
    cached, plain = validate(model, images, features), validate(model, images, None)
    assert cached["rsum"] == pytest.approx(plain["rsum"])
