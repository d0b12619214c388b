import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import dualpath
from dualpath.data.tokenizer import Tokenizer
from dualpath.data.transforms import View, preprocess
from dualpath.errors import ImageError
from dualpath.models.dual_encoder import build_network
from tests.conftest import small_resolved_recipe


@pytest.fixture(scope="module")
def model(bundle):
    return dualpath.load(bundle)


@pytest.fixture(scope="module")
def paths(shapes):
    return sorted((shapes / "images").iterdir())[:5]


def with_image_encoder(model, **changes):
    """Return the same network with other options of the image encoder."""
    image = model.recipe.image_encoder.model_copy(update=changes)
    recipe = model.recipe.model_copy(update={"image_encoder": image})
    return dualpath.DualPath(model.network, model.tokenizer, recipe)


def test_embeddings_are_unit_vectors_and_the_same_after_saving_again(model, paths, tmp_path):
    sentences = ["a small red circle above a big blue square", "", "犬 🐕 zebra", "red " * 500]
    images, texts = model.embed_images(paths), model.embed_texts(sentences)
    assert images.shape == (5, 32)
    assert images.dtype == texts.dtype == np.float32
    assert np.linalg.norm(images, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(texts, axis=1) == pytest.approx(1, abs=1e-5)
    model.save_pretrained(tmp_path / "again")
    again = dualpath.DualPath.from_pretrained(tmp_path / "again")
    assert np.array_equal(again.embed_images(paths), images)
    assert np.array_equal(again.embed_texts(sentences), texts)
    assert again.fingerprint == model.fingerprint
    assert again.recipe == model.recipe
    assert again.source == str((tmp_path / "again").resolve())


def test_the_batch_does_not_change_an_embedding(model, paths):
    sentences = ["two small red stars", "a big blue square above a tiny white cross", "red"]
    together = model.embed_texts(sentences)
    alone = np.concatenate([model.embed_texts([sentence]) for sentence in sentences])
    assert together == pytest.approx(alone, abs=1e-5)
    assert model.embed_images(paths) == pytest.approx(
        np.concatenate([model.embed_images([str(path)]) for path in paths]), abs=1e-5
    )
    assert model.embed_images(paths, batch_size=2, workers=2) == pytest.approx(
        model.embed_images(paths), abs=1e-5
    )


def test_many_texts_keep_their_order(model):
    words = ["red", "blue", "a red star", "two small blue circles above a star", "", "star"]
    texts = [words[number % 6] for number in range(70)]
    vectors = model.embed_texts(texts, batch_size=2)  # more than are sorted by length at once
    one_each = model.embed_texts(words)
    assert vectors == pytest.approx(one_each[[number % 6 for number in range(70)]], abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("crops", [0, 2])
@pytest.mark.parametrize("flip", [True, False])
def test_an_image_is_the_mean_of_its_views(model, paths, tmp_path, flip, crops):
    averaged = with_image_encoder(model, flip_average=flip, tta_crops=crops)
    views = [View(crop, mirror) for crop in (None, 0, 1)[: 1 + crops] for mirror in (False, True)]
    views = [view for view in views if flip or not view.flipped]
    model.network.eval()
    # Embeddings that were cached for other views are not used.
    model.embed_folder(paths, tmp_path)
    valid, vectors, _ = averaged.embed_folder(paths, tmp_path)
    assert valid.all()
    for path, vector in zip(paths, vectors, strict=True):
        with Image.open(path) as image:
            pixels = [torch.from_numpy(preprocess(image, view, 32))[None] for view in views]
        features = [model.network.image_encoder(view)[0] for view in pixels]
        mean = F.normalize(torch.stack(features).mean(0), dim=0)
        assert vector == pytest.approx(mean.numpy(), abs=1e-5)


def test_crops_change_the_embedding(model, paths):
    with_crops = with_image_encoder(model, tta_crops=2).embed_images(paths)
    for vector, other in zip(with_crops, model.embed_images(paths), strict=True):
        assert vector != pytest.approx(other, abs=1e-3)


def test_images_may_be_files_or_pil_images(model, paths):
    with Image.open(paths[0]) as image:
        assert np.array_equal(model.embed_images([image]), model.embed_images(paths[:1]))


def test_preprocessed_images_have_the_same_embeddings(model, paths):
    decoded = [model.decode(path.read_bytes(), path.name) for path in paths]
    pixels = [model.preprocess(image) for image in decoded]
    assert pixels[0].shape == (2, 3, 32, 32)
    assert pixels[0].dtype == np.uint8
    assert np.array_equal(model.embed_pixels(pixels), model.embed_images(paths))
    assert model.embed_pixels(pixels, batch_size=2) == pytest.approx(
        model.embed_images(paths), abs=1e-5
    )


def test_a_model_that_slides_embeds_images_of_different_shapes():
    image = {"backbone": "test_resnet", "pretrained": False, "input_size": 64, "test_size": 80}
    recipe = small_resolved_recipe(image_encoder=image)
    torch.manual_seed(0)
    network = build_network(recipe, 9).eval()
    model = dualpath.DualPath(network, Tokenizer([], "modern", 4), recipe)
    images = [Image.new("RGB", size, "red") for size in ((80, 80), (200, 80), (40, 90))]
    shapes = [model.preprocess(image).shape for image in images]
    assert shapes == [(2, 3, 80, 80), (2, 3, 80, 200), (2, 3, 180, 80)]
    vectors = model.embed_images(images)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


def test_no_images_and_no_texts_are_empty_matrices(model):
    assert model.embed_images([]).shape == (0, 32)
    assert model.embed_texts([]).shape == (0, 32)
    assert model.embed_pixels([]).shape == (0, 32)


def test_one_text_or_image_instead_of_a_list_is_explained(model, tmp_path):
    with pytest.raises(TypeError, match=r"embed_texts\(\[text\]\)"):
        model.embed_texts("a dog")
    for image in ("dog.jpg", tmp_path / "dog.jpg", Image.new("RGB", (9, 9))):
        with pytest.raises(TypeError, match=r"embed_images\(\[image\]\)"):
            model.embed_images(image)


def test_a_missing_image_is_named(model, tmp_path):
    with pytest.raises(ImageError, match=r"missing\.jpg"):
        model.embed_images([tmp_path / "missing.jpg"])


def test_progress_counts_images_and_texts(model, paths):
    finished = []
    model.embed_images(paths, batch_size=2, progress=finished.append)
    assert finished == [2, 2, 1]
    model.embed_texts(["a"] * 5, batch_size=2, progress=finished.append)
    assert finished[3:] == [2, 2, 1]


def test_a_folder_is_embedded_once_and_broken_images_are_named(model, paths, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    files = [*paths[:2], broken, *paths[2:]]
    finished = []
    valid, vectors, problems = model.embed_folder(
        files, tmp_path / "cache", progress=finished.append
    )
    assert valid.tolist() == [True, True, False, True, True, True]
    assert vectors == pytest.approx(model.embed_images(paths), abs=1e-5)
    assert list(problems) == [broken]
    assert sum(finished) == 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dualpath.DualPath, "embed_images", None)  # nothing is computed again
        _, again, _ = model.embed_folder(files, tmp_path / "cache")
    assert np.array_equal(again, vectors)


def test_the_numbers_of_parameters_are_those_of_the_encoders(model):
    counts = model.count_parameters()
    for name in ("image_encoder", "text_encoder"):
        encoder = getattr(model.network, name)
        assert counts[name] == sum(p.numel() for p in encoder.parameters())
    assert (model.dim, model.device.type) == (32, "cuda" if torch.cuda.is_available() else "cpu")
    assert model.to("cpu") is model
