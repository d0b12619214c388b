import json
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

import dualpath
from dualpath import exporting
from dualpath.errors import BundleError, ExportError
from dualpath.exporting.export import export
from tests.conftest import SMALL, STAGE, quiet, run_cli, small_recipe
from tests.models.sentence_encoder import write_sentence_encoder

SHALLOW = {**SMALL["text_encoder"], "depths": (1, 1, 1, 1)}  # the converter's time is by layers
STILL = {**SHALLOW, "position_shift": False}
ONE_STAGE = [{**STAGE, "name": "instance", "backbone": "frozen", "epochs": 1}]


@pytest.fixture(scope="module")
def shallow_bundle(tmp_path_factory, shapes, cache):
    folder = tmp_path_factory.mktemp("shallow")
    recipe = small_recipe(text_encoder={**STILL, "trunk": "residual"}, stages=ONE_STAGE)
    dualpath.train(recipe, shapes, folder, cache=cache, display=quiet())
    return folder


@pytest.fixture
def copy(shallow_bundle, tmp_path):
    ignored = shutil.ignore_patterns("training")
    return shutil.copytree(shallow_bundle, tmp_path / "copy", ignore=ignored)


def images(shapes):
    return sorted((shapes / "images").iterdir())[:7]


def pretend_it_is_fast(folder):
    """A network this small gains nothing, and torch would rightly be taken."""
    path = folder / "runtimes.json"
    entries = json.loads(path.read_text())
    path.write_text(json.dumps([{**entry, "speedup": 2.0} for entry in entries]))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_exported_image_path_is_picked_up_and_gives_what_torch_gives(copy, shapes, runtime):
    exported = export(copy, shapes, runtime=runtime)
    assert all(one.cosine > 0.9999 for one in exported)
    pretend_it_is_fast(copy)
    model, torch_model = dualpath.load(copy), dualpath.load(copy, runtime="torch")
    assert model.exported["image_encoder"].runtime == runtime
    assert torch_model.exported == {}
    got, expected = (m.embed_images(images(shapes), batch_size=3) for m in (model, torch_model))
    assert got == pytest.approx(expected, abs=1e-4)
    assert got.dtype == np.float32


SENTENCES = ["a", "", "a red star", "unheard of", "two small blue circles above a big green square"]


@pytest.mark.parametrize(
    ("text", "runtime"),
    [
        pytest.param(SHALLOW, "openvino", id="the paper's, all placements averaged"),
        pytest.param({**STILL, "padding": "unmasked"}, "onnxruntime", id="the paper's, unmasked"),
        pytest.param({**STILL, "trunk": "residual"}, "openvino", id="residual, maximum"),
        pytest.param(
            {**STILL, "trunk": "residual", "pooling": "mean"}, "onnxruntime", id="residual, mean"
        ),
        pytest.param(None, "openvino", id="a sentence encoder"),
    ],
)
def test_every_text_path_is_exported_and_gives_what_torch_gives(
    text, runtime, shapes, cache, tmp_path
):
    if text is None:
        text = {"transformer": str(write_sentence_encoder(tmp_path / "encoder"))}
    recipe = small_recipe(text_encoder=text, stages=ONE_STAGE)
    trained = dualpath.train(recipe, shapes, tmp_path / "model", cache=cache, display=quiet())
    export(tmp_path / "model", shapes, runtime=runtime)
    pretend_it_is_fast(tmp_path / "model")
    model = dualpath.load(tmp_path / "model")
    assert model.exported["text_encoder"].runtime == runtime
    expected = trained.embed_texts(SENTENCES)
    assert model.embed_texts(SENTENCES) == pytest.approx(expected, abs=1e-5)
    for sentence, vector in zip(SENTENCES, expected, strict=True):
        assert model.embed_texts([sentence])[0] == pytest.approx(vector, abs=1e-5)


def test_placements_in_unmasked_padding_are_left_to_torch(shapes, cache, tmp_path):
    recipe = small_recipe(text_encoder={**SHALLOW, "padding": "unmasked"}, stages=ONE_STAGE)
    dualpath.train(recipe, shapes, tmp_path, cache=cache, display=quiet())
    told = []
    exported = export(tmp_path, shapes, runtime="onnxruntime", say=told.append)
    assert [one.encoder for one in exported] == ["image_encoder"]
    assert any("left to torch" in line for line in told)


def test_int8_is_exported_by_command_with_its_recall_beside_torchs(copy, shapes):
    done = run_cli("export", copy, "--data", shapes, "--precision", "int8")
    assert done.returncode == 0, done.stderr
    assert "R@1: torch" in done.stderr
    assert (copy / "image_encoder.int8.xml").is_file()
    pretend_it_is_fast(copy)
    described = run_cli("info", copy).stdout
    assert "openvino, int8" in described
    assert "openvino, fp32" in described  # sentences


def test_onnx_runtime_takes_every_product_of_an_int8_network_in_8_bits(copy, shapes, tmp_path):
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


def test_what_costs_recall_is_refused_and_not_written(copy, shapes, monkeypatch):
    real = exporting.evaluate

    def worse_the_second_time(model, *arguments, **options):
        metrics = real(model, *arguments, **options)
        if options["cache"].name == "1":
            metrics["image_to_text"]["recall_at_1"] -= 50
        return metrics

    monkeypatch.setattr(exporting, "evaluate", worse_the_second_time)
    before = set(copy.iterdir())
    with pytest.raises(ExportError, match="points of R@1"):
        export(copy, shapes, precision="int8")
    assert set(copy.iterdir()) == before


def test_a_model_that_slides_over_images_is_exported_with_free_sides(shapes, cache, tmp_path):
    image = {**small_recipe().image_encoder.model_dump(mode="json"), "test_size": 40}
    recipe = small_recipe(image_encoder=image, text_encoder=STILL, stages=ONE_STAGE)
    dualpath.train(recipe, shapes, tmp_path / "slides", cache=cache, display=quiet())
    assert export(tmp_path / "slides", shapes)[0].cosine > 0.9999


def test_an_export_of_other_weights_is_not_used(copy, shapes):
    export(copy, shapes)
    pretend_it_is_fast(copy)
    path = copy / "runtimes.json"
    entries = json.loads(path.read_text())
    path.write_text(json.dumps([{**entry, "fingerprint": "0" * 32} for entry in entries]))
    with pytest.raises(BundleError, match="other weights"):
        dualpath.load(copy)


def test_saving_over_a_bundle_removes_what_was_exported_from_it(copy, shapes):
    export(copy, shapes, runtime="onnxruntime")
    dualpath.load(copy).save_pretrained(copy)
    assert not list(copy.glob("*.onnx"))
    assert dualpath.load(copy).exported == {}


def test_a_damaged_export_is_named(copy, shapes):
    export(copy, shapes, runtime="onnxruntime")
    pretend_it_is_fast(copy)
    (copy / "image_encoder.fp32.onnx").write_bytes(b"no network")
    with pytest.raises(BundleError, match=r"image_encoder\.fp32\.onnx"):
        dualpath.load(copy)


INTERRUPTED = """
import os, signal, sys, time
import dualpath
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
first, second = dualpath.load(sys.argv[1]), dualpath.load(sys.argv[1])
assert first.exported["image_encoder"].runtime == "openvino"
del first
del second
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_networks_of_openvino_that_go_leave_signals_as_they_were(copy, shapes):
    export(copy, shapes, runtime="openvino")
    pretend_it_is_fast(copy)
    command = [sys.executable, "-c", INTERRUPTED, str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
