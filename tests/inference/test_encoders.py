"""Encoders run by engines of the bundle, and by torch where it is needed."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

import dualpath
from dualpath.errors import BundleError
from dualpath.inference.runtimes import has_gpu, read_exports
from tests.conftest import ONE_STAGE, SMALL, small_recipe, train_quietly

SHALLOW = {**SMALL["text_encoder"], "depths": (1, 1, 1, 1)}
TEXTS = ["a", "", "a red star", "unheard of", "two small blue circles above a big green square"]


@pytest.fixture
def copy(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "copy", ignore=shutil.ignore_patterns("training"))


def images(shapes):
    return sorted((shapes / "images").iterdir())[:5]


def remove_onnx(folder):
    """Leave what a version without ONNX encoders has written."""
    for file in [*folder.glob("*.onnx"), folder / "runtimes.json"]:
        file.unlink()


PAPER = {
    "batch_norm": "paper",
    "relu_before_loss": True,
    "classifier": {"bias": True},
    "text_encoder": {**SHALLOW, "padding": "unmasked"},
    "stages": [
        {
            **ONE_STAGE[0],
            "backbone": "trained",
            "backbone_running_rate": 0.001,
            "instance": {"dropout": 0.5},
            "ranking": {"negatives": "mined", "candidates": 32},
            "optimizer": {"name": "sgd", "lr": 0.01, "rates": {"backbone_first_conv": 0.0}},
        }
    ],
}


def test_the_averages_of_the_paper_are_in_the_bundle_and_its_onnx_encoders(shapes, cache, tmp_path):
    trained = train_quietly(small_recipe(**PAPER), shapes, tmp_path, cache=cache)
    norms = [m for m in trained.network.modules() if getattr(m, "averages_sigma", False)]
    assert len(norms) > 10
    assert all(int(norm.num_batches_tracked) == 5 for norm in norms)
    model, in_torch = dualpath.load(tmp_path), dualpath.load(tmp_path, runtime="torch")
    assert model.recipe.batch_norm == "paper"
    for embed, arguments in (("embed_texts", TEXTS), ("embed_images", images(shapes))):
        expected = getattr(trained, embed)(arguments)
        assert np.isfinite(expected).all()
        for one in (model, in_torch):
            assert getattr(one, embed)(arguments) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param({}, id="text CNN, averaged positions"),
        pytest.param({"position_shift": False}, id="text CNN, one position"),
        pytest.param({"padding": "unmasked"}, id="unmasked, averaged positions"),
        pytest.param({"padding": "unmasked", "position_shift": False}, id="unmasked"),
        pytest.param({"pooling": "mean", "position_shift": False}, id="text CNN, mean"),
        pytest.param({"trunk": "residual", "position_shift": False}, id="residual, maximum"),
        pytest.param(
            {"trunk": "residual", "pooling": "mean", "position_shift": False}, id="residual, mean"
        ),
        pytest.param(None, id="sentence encoder"),
    ],
)
def test_a_trained_bundle_embeds_without_torch_what_it_embeds_with_torch(
    text, shapes, cache, tmp_path, sentence_encoder
):
    text = {"transformer": str(sentence_encoder)} if text is None else {**SHALLOW, **text}
    train_quietly(small_recipe(text_encoder=text, stages=ONE_STAGE), shapes, tmp_path, cache=cache)
    model, in_torch = dualpath.load(tmp_path), dualpath.load(tmp_path, runtime="torch")
    assert {one.runtime for one in model.exported.values()} == {"onnxruntime"}
    assert len(model.exported) == 2
    expected = in_torch.embed_texts(TEXTS)
    assert model.embed_texts(TEXTS) == pytest.approx(expected, abs=1e-5)
    for one, vector in zip(TEXTS, expected, strict=True):
        assert model.embed_texts([one])[0] == pytest.approx(vector, abs=1e-5)
    vectors = model.embed_images(images(shapes), batch_size=2)
    assert vectors == pytest.approx(in_torch.embed_images(images(shapes)), abs=1e-5)
    assert vectors.dtype == np.float32


def test_fingerprint_and_sizes_are_those_that_torch_counts(copy):
    model, in_torch = dualpath.load(copy), dualpath.load(copy, runtime="torch")
    assert in_torch.network is not None  # loaded; both are now computed from the module
    assert model.fingerprint == in_torch.fingerprint
    assert model.count_parameters() == in_torch.count_parameters()


def test_a_bundle_of_an_older_version_gets_onnx_encoders_when_it_is_loaded(copy):
    expected = dualpath.load(copy).embed_texts(TEXTS)
    remove_onnx(copy)
    assert dualpath.load(copy).embed_texts(TEXTS) == pytest.approx(expected, abs=1e-5)
    assert {one.encoder for one in read_exports(copy)} == {"image_encoder", "text_encoder"}


WITHOUT_TORCH = """
import sys
for package in ("torch", "torchvision", "timm", "accelerate", "sklearn", "transformers"):
    sys.modules[package] = None
import importlib.util
real = importlib.util.find_spec
import dualpath.inference.encoders as encoders
encoders.find_spec = lambda name: None if name == "torch" else real(name)
import dualpath
try:
    model = dualpath.load(sys.argv[1])
    print(model.embed_texts(["a red star"]).shape, model.count_parameters().keys())
    model.network
except dualpath.DualPathError as error:
    print(f"{type(error).__name__}: {error}")
try:
    dualpath.train
except dualpath.DualPathError as error:
    print(f"{type(error).__name__}: {error}")
"""


def run_without_torch(folder):
    command = [sys.executable, "-c", WITHOUT_TORCH, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout.splitlines()


def test_what_needs_torch_names_the_extra(copy):
    lines = run_without_torch(copy)
    assert lines[0].startswith("(1, 32) dict_keys(['image_encoder', 'text_encoder'])")
    assert lines[1:] == [
        "MissingPackageError: this needs the package torch: pip install 'dualpath[train]'",
        "MissingPackageError: dualpath.train needs the package timm: pip install 'dualpath[train]'",
    ]


def test_an_older_bundle_without_torch_says_what_to_do(copy):
    remove_onnx(copy)
    line = run_without_torch(copy)[0]
    assert line.startswith(f"BundleError: {copy}: has no ONNX encoders")
    assert line.endswith("pip install 'dualpath[train]'")


def test_a_folder_that_cannot_be_written_is_used_with_torch(copy, caplog, monkeypatch):
    remove_onnx(copy)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("dualpath.inference.encoders.add_onnx_encoders", refuse)
    model = dualpath.load(copy)
    assert model.exported == {}
    assert model.embed_texts(["a red star"]).shape == (1, 32)
    assert "the ONNX encoders cannot be written" in caplog.text


def test_a_gpu_is_found_without_torch():
    import torch

    assert has_gpu() == torch.cuda.is_available()


def test_a_missing_encoder_is_named_when_the_bundle_is_loaded(copy):
    (copy / "text_encoder.fp32.onnx").unlink()
    with pytest.raises(BundleError, match=r"text_encoder\.fp32\.onnx: missing; export again"):
        dualpath.load(copy)
