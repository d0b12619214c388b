"""A bundle, a gallery and a recipe that version 0.1 wrote are read and give the same results.

``v1.tar.xz`` was written by commit 4a81662: ``recipe.yaml`` (with the keys of that time), the
``bundle`` trained with it, four ``images`` with metadata, a ``gallery`` of them, and
``expected.json``: what that version computed from these files.
"""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

import dualpath
from dualpath.errors import GalleryError
from dualpath.inference.bundle import read_bundle
from tests.conftest import train_quietly

ARCHIVE = Path(__file__).with_name("v1.tar.xz")


@pytest.fixture(scope="module")
def v1(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compatibility")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "v1"


@pytest.fixture(scope="module")
def expected(v1):
    return json.loads((v1 / "expected.json").read_text())


@pytest.fixture(scope="module")
def model(v1):
    return dualpath.load(v1 / "bundle")


@pytest.fixture
def gallery(v1, tmp_path):
    # The gallery names the folder that its model was in, which does not exist any more.
    folder = shutil.copytree(v1 / "gallery", tmp_path / "gallery")
    with dualpath.Gallery.open(folder, model=v1 / "bundle") as opened:
        yield opened


def test_the_recipe_is_read_under_the_names_that_keys_have_now(v1):
    recipe = dualpath.read_recipe(v1 / "recipe.yaml")
    first, second = recipe.stages
    assert (recipe.name, recipe.seed, recipe.dim) == ("old", 4, 16)
    assert (recipe.reference_size, recipe.num_heads, recipe.relu_before_loss) == (32, 2, True)
    assert recipe.expected.images == 32
    assert (recipe.image_encoder.feature_layers, recipe.image_encoder.tta_crops) == ((-1,), 1)
    assert recipe.classifier.sample_rate == 0.5
    assert (first.captions_per_image, first.captions_of) == (2, "image")
    assert first.instance.logit_scale == 8
    assert second.ranking.negatives == "mined"


def test_the_recipe_of_the_bundle_is_complete(v1):
    recipe = read_bundle(v1 / "bundle").recipe
    assert recipe.image_encoder.input_size == 24
    assert recipe.image_encoder.mean == (0.485, 0.456, 0.406)
    assert recipe.reference_size is None
    assert [stage.batch_size for stage in recipe.stages] == [32, 32]


def test_the_bundle_has_the_same_fingerprint(model, expected):
    assert model.fingerprint == expected["fingerprint"]


def test_the_bundle_gives_the_same_vectors(v1, model, expected):
    texts = model.embed_texts(expected["texts"])
    assert np.abs(texts - expected["text_vectors"]).max() < 1e-5
    rows = [json.loads(line) for line in (v1 / "images" / "metadata.jsonl").open()]
    images = model.embed_images([v1 / "images" / row["file_name"] for row in rows])
    assert np.abs(images - expected["image_vectors"]).max() < 1e-5


def test_the_metrics_and_the_calibration_of_the_bundle_are_read(v1, model):
    written = json.loads((v1 / "bundle" / "metrics.json").read_text())["validation"]
    result = dualpath.EvaluationResult.from_dict(model.metrics["validation"])
    assert result.rsum == written["rsum"]
    assert result.text_to_image.recall_at_10 == written["text_to_image"]["recall_at_10"]
    assert model.calibration.images == written["calibration"]["pictures"]
    assert model.calibration.slope == written["calibration"]["slope"]
    assert 0 < model.calibration.probability(0.5) < 1


def test_the_bundle_is_written_again_as_a_new_one(model, expected, tmp_path):
    model.save_pretrained(tmp_path)
    again = dualpath.load(tmp_path)
    assert again.fingerprint == expected["fingerprint"]
    assert again.recipe == model.recipe
    assert again.calibration == model.calibration
    assert "num_heads: 2" in (tmp_path / "recipe.yaml").read_text()


def test_a_search_with_a_filter_finds_the_same_images(gallery, expected):
    hits = gallery.search(expected["texts"][0], where="year >= 2019 and kind = 'odd'")
    assert [hit.image.name for hit in hits] == [name for name, _ in expected["hits"]]
    assert [hit.score for hit in hits] == pytest.approx([s for _, s in expected["hits"]], abs=1e-5)
    assert all(hit.image.metadata["kind"] == "odd" for hit in hits)
    assert all(hit.image.metadata["year"] >= 2019 for hit in hits)


def test_a_search_for_captions_finds_the_same_captions(gallery, expected):
    hits = gallery.search_captions(expected["texts"][0], top=3)
    assert [[hit.caption, hit.image.name] for hit in hits] == expected["captions"]


def test_images_are_added_to_the_gallery(gallery, v1, expected):
    assert len(gallery) == 4
    summary = gallery.add(v1 / "images")  # the same files, now in another folder
    assert summary.new == 4
    assert len(gallery) == 8
    names = [hit.image.name for hit in gallery.search(expected["texts"][0], top=8)]
    assert sorted(names) == sorted(2 * [f"images/scene-0000{number}.png" for number in range(4)])


def test_without_its_model_the_gallery_says_what_to_do(v1, tmp_path):
    folder = shutil.copytree(v1 / "gallery", tmp_path / "gallery")
    info = json.loads((folder / "gallery.json").read_text())
    (folder / "gallery.json").write_text(json.dumps({**info, "source": str(tmp_path / "gone")}))
    with dualpath.Gallery.open(folder) as opened:
        assert len(opened) == 4
        with pytest.raises(GalleryError, match=r"gone.* --model"):
            opened.search("a red star")


@pytest.mark.slow
def test_the_recipe_can_still_be_trained(v1, shapes, cache, tmp_path):
    model = train_quietly(v1 / "recipe.yaml", shapes, tmp_path, cache=cache)
    assert [entry["stage"] for entry in model.metrics["history"]][-1] == "two"
