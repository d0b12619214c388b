import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

import dualpath
from dualpath.errors import BundleError
from dualpath.inference.bundle import find_bundle


@pytest.fixture
def copy(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "copy", ignore=shutil.ignore_patterns("training"))


def test_a_bundle_contains_these_files_and_no_pickle(copy):
    names = {"model.safetensors", "recipe.yaml", "tokenizer.json", "metrics.json", "README.md"}
    names |= {"runtimes.json", "image_encoder.fp32.onnx", "text_encoder.fp32.onnx"}
    assert {path.name for path in copy.iterdir()} == names


def truncate_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def write_foreign_weights(folder):
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate_weights, r"model\.safetensors: damaged or truncated"),
        (write_foreign_weights, r"model\.safetensors: not the weights of a DualPath bundle"),
        (
            lambda folder: (folder / "recipe.yaml").write_text("name: ["),
            r"recipe\.yaml: not valid YAML",
        ),
        (
            lambda folder: (folder / "tokenizer.json").write_text(json.dumps({"model": 1})),
            r"tokenizer\.json: not a tokenizer file",
        ),
        (
            lambda folder: (folder / "metrics.json").write_text("{"),
            r"metrics\.json: not valid JSON",
        ),
        (
            lambda folder: (folder / "model.safetensors").unlink(),
            r"not a bundle, model\.safetensors missing",
        ),
    ],
    ids=["truncated", "foreign", "recipe", "tokenizer", "metrics", "missing"],
)
def test_a_damaged_bundle_is_one_clear_line(copy, damage, message):
    damage(copy)
    with pytest.raises(BundleError, match=message) as raised:
        dualpath.load(copy)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("runtime", ["fastest", "torch"])
def test_files_of_two_bundles_are_noticed(copy, runtime):
    recipe = copy / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("dim: 32", "dim: 48"))
    with pytest.raises(BundleError, match=r"does not fit the recipe beside it"):
        dualpath.load(copy, runtime=runtime).embed_texts(["a star"])


def test_a_bundle_without_metrics_is_loaded(copy):
    (copy / "metrics.json").unlink()
    model = dualpath.load(copy)
    assert model.metrics == {}
    assert model.calibration is None


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(BundleError, match="missing: the folder does not exist"):
        dualpath.load(tmp_path / "missing")


def test_a_bundle_that_is_not_on_the_hub_is_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        BundleError, match=r"no/such-model: the folder does not exist, and the hub has no such"
    ) as raised:
        dualpath.load("no/such-model")
    assert len(str(raised.value).splitlines()) == 1


def test_a_local_folder_is_used_without_the_hub(copy):
    assert find_bundle(copy) == copy
    assert find_bundle(str(copy)) == copy


def test_saving_over_a_bundle_deletes_what_was_exported_from_it(copy):
    model = dualpath.load(copy)
    exported = ["image_encoder.int8.xml", "image_encoder.int8.bin", "text_encoder.fp32.xml"]
    for name in exported:
        (copy / name).touch()
    model.save_pretrained(copy)
    assert not {path.name for path in copy.iterdir()} & set(exported)
    assert dualpath.load(copy).fingerprint == model.fingerprint


def test_a_bundle_that_cannot_be_written_is_named(bundle, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match=r"file.*: the bundle cannot be written"):
        dualpath.load(bundle).save_pretrained(tmp_path / "file" / "bundle")
