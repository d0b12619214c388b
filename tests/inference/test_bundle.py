import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

import dualpath
from dualpath.data.transforms import View, render
from dualpath.errors import BundleError, ImageError
from dualpath.recipes.loading import read_recipe, write_recipe


@pytest.fixture
def copy(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "copy", ignore=shutil.ignore_patterns("training"))


@pytest.fixture(scope="module")
def model(bundle):
    return dualpath.load(bundle)


def test_a_bundle_holds_no_pickle(copy):
    names = {"model.safetensors", "recipe.yaml", "tokenizer.json", "metrics.json", "README.md"}
    assert {path.name for path in copy.iterdir()} == names


def test_embeddings_are_unit_vectors_and_the_same_after_saving_again(model, shapes, tmp_path):
    images = sorted((shapes / "images").iterdir())[:5]
    sentences = ["a small red circle above a big blue square", "", "犬 🐕 zebra", "red " * 500]
    images, texts = model.embed_images(images), model.embed_texts(sentences)
    assert images.shape == (5, 32)
    assert images.dtype == texts.dtype == np.float32
    assert np.linalg.norm(images, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(texts, axis=1) == pytest.approx(1, abs=1e-5)
    model.save_pretrained(tmp_path / "again")
    again = dualpath.DualPath.from_pretrained(tmp_path / "again")
    assert np.array_equal(again.embed_images(images), images)
    assert np.array_equal(again.embed_texts(sentences), texts)
    assert again.fingerprint == model.fingerprint
    assert again.recipe == model.recipe


def test_the_batch_does_not_change_an_embedding(model, shapes):
    sentences = ["two small red stars", "a big blue square above a tiny white cross", "red"]
    together = model.embed_texts(sentences)
    alone = np.concatenate([model.embed_texts([sentence]) for sentence in sentences])
    assert together == pytest.approx(alone, abs=1e-5)
    images = sorted((shapes / "images").iterdir())[:3]
    assert model.embed_images(images) == pytest.approx(
        np.concatenate([model.embed_images([str(path)]) for path in images]), abs=1e-5
    )


@torch.no_grad()
def test_a_image_is_the_mean_of_the_crops_asked_for(copy, shapes, tmp_path):
    paths = sorted((shapes / "images").iterdir())[:3]
    _, whole, _ = dualpath.load(copy).embed_folder(paths, tmp_path)
    write_recipe(
        read_recipe(copy / "recipe.yaml", ["image_encoder.average_crops=2"]), copy / "recipe.yaml"
    )
    model = dualpath.load(copy)
    model.network.eval()
    sound, vectors, _ = model.embed_folder(paths, tmp_path)  # not those that were kept
    assert sound.all()
    names = [[None, False], [None, True], [0, False], [0, True], [1, False], [1, True]]
    for path, kept, vector in zip(paths, whole, vectors, strict=True):
        with Image.open(path) as image:
            views = [render(image, View(*name), 32)[None] for name in names]
        features = [model.network.image_encoder(view)[0] for view in views]
        mean = F.normalize(torch.stack(features).mean(0), dim=0)
        assert vector == pytest.approx(mean.numpy(), abs=1e-5)
        assert vector != pytest.approx(kept, abs=1e-3)


def test_images_may_be_files_or_pil_images(model, shapes):
    path = next((shapes / "images").iterdir())
    with Image.open(path) as image:
        assert np.array_equal(model.embed_images([image]), model.embed_images([path]))


def test_nothing_to_embed_is_an_empty_matrix(model):
    assert model.embed_images([]).shape == (0, 32)
    assert model.embed_texts([]).shape == (0, 32)


def test_one_sentence_or_image_instead_of_a_list_is_explained(model, tmp_path):
    with pytest.raises(TypeError, match=r"embed_texts\(\[sentence\]\)"):
        model.embed_texts("a dog")
    with pytest.raises(TypeError, match=r"embed_images\(\[image\]\)"):
        model.embed_images("dog.jpg")
    with pytest.raises(ImageError, match=r"missing\.jpg"):
        model.embed_images([tmp_path / "missing.jpg"])


def damage(folder, what):
    weights = folder / "model.safetensors"
    if what == "cut":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif what == "foreign":
        import torch

        save_file({"a": torch.zeros(1)}, weights)
    elif what == "mixed":
        recipe = (folder / "recipe.yaml").read_text().replace("dim: 32", "dim: 48")
        (folder / "recipe.yaml").write_text(recipe)
    elif what == "recipe":
        (folder / "recipe.yaml").write_text("name: [")
    elif what == "tokenizer":
        (folder / "tokenizer.json").write_text(json.dumps({"model": 1}))
    elif what == "metrics":
        (folder / "metrics.json").write_text("{")
    else:
        weights.unlink()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("cut", r"model\.safetensors: damaged or cut short"),
        ("foreign", r"model\.safetensors: not the weights of a DualPath bundle"),
        ("mixed", r"model\.safetensors: does not fit the recipe beside it"),
        ("recipe", r"recipe\.yaml: not valid YAML"),
        ("tokenizer", r"tokenizer\.json: not a tokenizer file"),
        ("metrics", r"metrics\.json"),
        ("missing", r"no bundle, model\.safetensors missing"),
    ],
)
def test_a_damaged_bundle_is_one_clear_line(copy, what, message):
    damage(copy, what)
    with pytest.raises(BundleError, match=message) as raised:
        dualpath.load(copy)
    assert len(str(raised.value).splitlines()) == 1


def test_a_bundle_that_is_nowhere_is_named(tmp_path, monkeypatch):
    with pytest.raises(BundleError, match="missing: no such folder"):
        dualpath.load(tmp_path / "missing")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        BundleError, match=r"no/such-model: no such folder, and not found on the hub"
    ):
        dualpath.load("no/such-model")


def test_the_model_card_tells_what_was_measured(copy):
    card = (copy / "README.md").read_text()
    metrics = json.loads((copy / "metrics.json").read_text())["validation"]
    assert "library_name: dualpath" in card
    assert f"{metrics['image_to_text']['recall_at_1']:.1f}" in card
