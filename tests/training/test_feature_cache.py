import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from dualpath.data.images import open_image
from dualpath.data.manifest import read_manifest
from dualpath.data.transforms import WHOLE, preprocess
from dualpath.errors import TextEncoderError
from dualpath.models.dual_encoder import build_network
from dualpath.models.image_encoder import ImageEncoder
from dualpath.training.feature_cache import cached_features, cached_text_features
from tests.conftest import ONE_STAGE, small_recipe, small_resolved_recipe, train_quietly


@pytest.fixture
def passed_images(monkeypatch):
    """The numbers of images that went through the backbone, one for each call."""
    numbers = []
    forward = ImageEncoder.backbone_features

    def counted(self, pixels):
        numbers.append(len(pixels))
        return forward(self, pixels)

    monkeypatch.setattr(ImageEncoder, "backbone_features", counted)
    # Saving compares the ONNX encoders with the network, which passes examples through it.
    monkeypatch.setattr("dualpath.inference.torch_backend.save_onnx_encoders", lambda *_: [])
    return numbers


def test_the_second_run_of_a_frozen_stage_passes_no_image_through_the_backbone(
    tmp_path, shapes, passed_images
):
    recipe, cache = small_recipe(stages=ONE_STAGE), tmp_path / "cache"
    train_quietly(recipe, shapes, tmp_path / "first", cache=cache)
    # 80 for training, upright; 10 for validation, upright and mirrored.
    assert sum(passed_images) == 100
    passed_images.clear()
    train_quietly(recipe, shapes, tmp_path / "second", cache=cache)
    assert sum(passed_images) == 0


def test_only_a_changed_image_is_computed_again(tmp_path, shapes, passed_images):
    folder = shutil.copytree(shapes, tmp_path / "shapes")
    recipe = small_recipe(stages=ONE_STAGE)
    train_quietly(recipe, folder, tmp_path / "first", cache=tmp_path / "cache")
    changed = read_manifest(folder).split("train").images[0].path
    Image.new("RGB", (40, 40), "red").save(changed)
    passed_images.clear()
    train_quietly(recipe, folder, tmp_path / "second", cache=tmp_path / "cache")
    assert passed_images == [1]


def test_interrupted_filling_of_the_cache_continues(tmp_path, shapes, monkeypatch):
    passed = []
    forward = ImageEncoder.backbone_features
    limit = 64

    def interrupted(self, pixels):
        if sum(passed) >= limit:
            raise KeyboardInterrupt
        passed.append(len(pixels))
        return forward(self, pixels)

    monkeypatch.setattr("dualpath.training.feature_cache._BATCH", 8)
    monkeypatch.setattr("dualpath.training.feature_cache._STORE_EVERY", 2)
    monkeypatch.setattr(ImageEncoder, "backbone_features", interrupted)
    recipe, cache = small_recipe(stages=ONE_STAGE), tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        train_quietly(recipe, shapes, tmp_path / "out", cache=cache)
    limit = 1000
    train_quietly(recipe, shapes, tmp_path / "out", cache=cache)
    assert sum(passed) <= 100 + 16  # each image once, and at most those that were not yet stored


@pytest.mark.parametrize("grid", [2, 3])
@pytest.mark.parametrize("engine", [False, True])
def test_cached_features_are_those_of_the_backbone(shapes, cache, grid, engine, monkeypatch):
    if engine:
        monkeypatch.setattr("dualpath.training.feature_cache._ENGINE_FROM", 1)
    image = {"backbone": "test_resnet", "pretrained": False, "input_size": 64, "grid": grid}
    torch.manual_seed(0)
    encoder = build_network(small_resolved_recipe(image_encoder=image), 5).image_encoder.eval()
    images = read_manifest(shapes).split("val").images
    hashes = np.array([f"{number:032x}" for number in range(len(images))], "S32")
    cached = cached_features(encoder, images.paths, hashes, [WHOLE], 64, cache)
    pixels = preprocess(open_image(images[0].path), WHOLE, 64)[None]
    with torch.no_grad():
        live = encoder.backbone_features(torch.from_numpy(pixels))[0].numpy()
    np.testing.assert_allclose(cached.features[0][cached.rows[0][0]], live, atol=1e-5)


def test_many_images_pass_through_onnx_runtime(tmp_path, shapes, passed_images, monkeypatch):
    monkeypatch.setattr("dualpath.training.feature_cache._ENGINE_FROM", 50)
    train_quietly(
        small_recipe(stages=ONE_STAGE), shapes, tmp_path / "out", cache=tmp_path / "cache"
    )
    # 10 for validation, upright and mirrored, with torch. 80 for training: two examples pass
    # through torch to trace the graph and to compare it.
    assert passed_images == [10, 10, 2, 2]


def test_a_backbone_that_cannot_be_exported_is_run_by_torch(
    tmp_path, shapes, passed_images, monkeypatch, caplog
):
    monkeypatch.setattr("dualpath.training.feature_cache._ENGINE_FROM", 50)
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: 1 / 0)
    train_quietly(
        small_recipe(stages=ONE_STAGE), shapes, tmp_path / "out", cache=tmp_path / "cache"
    )
    assert sum(passed_images) == 100
    assert "cannot be exported" in caplog.text


def test_a_text_encoder_without_features_is_refused(tmp_path):
    encoder = build_network(small_resolved_recipe(), 5).text_encoder
    with pytest.raises(TextEncoderError, match="TextCNN has no features to cache"):
        cached_text_features(encoder, np.array([[1, 2]]), tmp_path)
