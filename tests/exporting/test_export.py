"""Exported encoders give the results of torch and are used when a bundle is loaded."""

import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from typer.testing import CliRunner

import dualpath
from dualpath.cli.main import app
from dualpath.errors import ExportError
from dualpath.exporting.export import export
from dualpath.inference.runtimes import read_exports, write_exports
from tests.conftest import ONE_STAGE, SMALL, run_cli, small_recipe, train_quietly
from tests.models.image_text.originals import write_original

pytestmark = pytest.mark.slow

SHALLOW = {**SMALL["text_encoder"], "depths": (1, 1, 1, 1)}  # conversion takes longer with layers
STILL = {**SHALLOW, "position_shift": False}
TEXTS = ["a", "", "a red star", "unheard of", "two small blue circles above a big green square"]


@pytest.fixture(scope="module")
def shallow_bundle(tmp_path_factory, shapes, cache):
    folder = tmp_path_factory.mktemp("shallow")
    recipe = small_recipe(text_encoder={**STILL, "trunk": "residual"}, stages=ONE_STAGE)
    train_quietly(recipe, shapes, folder, cache=cache)
    return folder


@pytest.fixture
def copy(shallow_bundle, tmp_path):
    ignored = shutil.ignore_patterns("training")
    return shutil.copytree(shallow_bundle, tmp_path / "copy", ignore=ignored)


def images(shapes):
    return sorted((shapes / "images").iterdir())[:7]


def pretend_it_is_fast(folder):
    """Record a speedup: a network this small has none, and torch would rightly be used."""
    write_exports(folder, [replace(exported, speedup=2.0) for exported in read_exports(folder)])


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_exported_image_encoder_is_used_and_gives_the_vectors_of_torch(copy, shapes, runtime):
    exported = export(copy, shapes, runtime=runtime)
    assert all(one.cosine > 0.9999 for one in exported)
    pretend_it_is_fast(copy)
    model, torch_model = dualpath.load(copy), dualpath.load(copy, runtime="torch")
    assert model.exported["image_encoder"].runtime == runtime
    assert torch_model.exported == {}
    got, expected = (m.embed_images(images(shapes), batch_size=3) for m in (model, torch_model))
    assert got == pytest.approx(expected, abs=1e-4)
    assert got.dtype == np.float32


@pytest.mark.parametrize(
    ("text", "runtime"),
    [
        pytest.param(SHALLOW, "openvino", id="text CNN, averaged positions"),
        pytest.param({**STILL, "padding": "unmasked"}, "onnxruntime", id="text CNN, unmasked"),
        pytest.param({**STILL, "trunk": "residual"}, "openvino", id="residual, maximum"),
        pytest.param(
            {**STILL, "trunk": "residual", "pooling": "mean"}, "onnxruntime", id="residual, mean"
        ),
        pytest.param(None, "openvino", id="sentence encoder"),
    ],
)
def test_every_text_encoder_is_exported_and_gives_the_vectors_of_torch(
    text, runtime, shapes, cache, tmp_path, sentence_encoder
):
    if text is None:
        text = {"transformer": str(sentence_encoder)}
    recipe = small_recipe(text_encoder=text, stages=ONE_STAGE)
    trained = train_quietly(recipe, shapes, tmp_path, cache=cache)
    export(tmp_path, shapes, runtime=runtime)
    pretend_it_is_fast(tmp_path)
    model = dualpath.load(tmp_path)
    assert model.exported["text_encoder"].runtime == runtime
    expected = trained.embed_texts(TEXTS)
    assert model.embed_texts(TEXTS) == pytest.approx(expected, abs=1e-5)
    for text, vector in zip(TEXTS, expected, strict=True):
        assert model.embed_texts([text])[0] == pytest.approx(vector, abs=1e-5)


def test_averaged_positions_in_unmasked_padding_are_placed_by_the_caller(shapes, cache, tmp_path):
    recipe = small_recipe(text_encoder={**SHALLOW, "padding": "unmasked"}, stages=ONE_STAGE)
    trained = train_quietly(recipe, shapes, tmp_path, cache=cache)
    _, text = export(tmp_path, shapes, runtime="openvino")
    assert text.placed_positions == trained.recipe.text_encoder.max_words
    pretend_it_is_fast(tmp_path)
    model = dualpath.load(tmp_path)
    assert model.exported["text_encoder"].runtime == "openvino"
    assert model.embed_texts(TEXTS) == pytest.approx(trained.embed_texts(TEXTS), abs=1e-5)


def test_the_command_exports_int8_and_prints_its_recall_beside_that_of_torch(
    copy, shapes, monkeypatch
):
    # Without VNNI instructions a network this small and barely trained loses several queries.
    monkeypatch.setattr("dualpath.exporting.export._RECALL_LOSS", 100.0)
    arguments = ["export", copy, "--data", shapes, "--precision", "int8"]
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.stderr
    assert "R@1: torch" in done.stderr
    assert (copy / "image_encoder.int8.xml").is_file()
    pretend_it_is_fast(copy)
    described = run_cli("info", copy).stdout
    assert "openvino, int8" in described
    assert "openvino, fp32" in described  # the text encoder


def test_onnx_runtime_computes_every_product_of_an_int8_encoder_in_8_bits(copy, shapes, tmp_path):
    image, _ = export(copy, shapes, runtime="onnxruntime", precision="int8")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "as_it_runs.onnx")
    options.log_severity_level = 3  # that such a file is for this machine alone
    onnxruntime.InferenceSession(str(copy / image.file), options)
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "as_it_runs.onnx").graph.node)
    assert kinds["QLinearConv"] > 10
    assert kinds["QGemm"] == 2
    assert not kinds.keys() & {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul"}
    assert image.cosine > 0.9


def test_int8_that_costs_recall_is_refused_and_not_written(copy, shapes, monkeypatch):
    from dualpath.exporting import export as module

    real = module.evaluate

    def worse_the_second_time(model, *arguments, **options):
        result = real(model, *arguments, **options)
        if options["cache"].name == "0":
            return result
        worse = result.image_to_text.recall_at_1 - 50
        return replace(result, image_to_text=replace(result.image_to_text, recall_at_1=worse))

    monkeypatch.setattr(module, "evaluate", worse_the_second_time)
    before = set(copy.iterdir())
    with pytest.raises(ExportError, match=r"points of R@1 \(image to text\)"):
        export(copy, shapes, precision="int8")
    assert set(copy.iterdir()) == before


def test_features_that_differ_from_torchs_are_refused_and_not_written(copy, shapes, monkeypatch):
    monkeypatch.setattr("dualpath.exporting.export._LOWEST_COSINE", 1.01)
    before = set(copy.iterdir())
    with pytest.raises(ExportError, match="computes other features than torch"):
        export(copy, shapes, runtime="onnxruntime")
    assert set(copy.iterdir()) == before


def test_a_model_that_slides_over_images_is_exported_with_free_sides(shapes, cache, tmp_path):
    image = {**small_recipe().image_encoder.model_dump(mode="json"), "test_size": 40}
    recipe = small_recipe(image_encoder=image, text_encoder=STILL, stages=ONE_STAGE)
    train_quietly(recipe, shapes, tmp_path, cache=cache)
    assert export(tmp_path, shapes)[0].cosine > 0.9999


# Attention of random weights loses too much by int8, which the export refuses.
@pytest.mark.parametrize(("family", "precision"), [("clip", "fp32"), ("mobile_clip", "int8")])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_pretrained_image_text_model_is_exported(family, precision, runtime, shapes, tmp_path):
    write_original(family, tmp_path / "original")
    bundle = dualpath.convert_pretrained(tmp_path / "original", tmp_path / "bundle")
    image, text = export(bundle, shapes, runtime=runtime, precision=precision)
    assert image.cosine > 0.9
    assert text.cosine > 0.9999
    pretend_it_is_fast(bundle)
    model = dualpath.load(bundle)
    assert str(model.exported["image_encoder"]).startswith(f"{runtime}, {precision}")
    assert model.embed_images(images(shapes)).shape == (7, model.dim)
