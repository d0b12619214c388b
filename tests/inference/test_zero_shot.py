"""Zero-shot classification of images."""

import numpy as np
import pytest
import torch

import dualpath
from dualpath.errors import ClassificationError
from dualpath.inference.pretrained import convert_pretrained
from dualpath.inference.zero_shot import (
    IMAGENET_TEMPLATES,
    ZeroShotClassifier,
    fit_logit_scale,
    model_scale,
    softmax,
)
from tests.models.image_text.originals import write_original
from tests.models.image_text.reference import odd_images

LABELS = ["dog", "red car", "ein Mädchen"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zero-shot")
    write_original("clip", folder / "original")
    return folder / "original", convert_pretrained(folder / "original", folder / "bundle")


@torch.no_grad()
def test_probabilities_are_those_of_the_original_model(pair):
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    original, bundle = pair
    images = list(odd_images().values())[:3]
    found = dualpath.classify(dualpath.load(bundle), images, LABELS, top=3)
    model = AutoModel.from_pretrained(original).eval()
    texts = [f"a photo of a {label}." for label in LABELS]
    tokens = AutoTokenizer.from_pretrained(original)(
        texts, padding=True, truncation=True, return_tensors="pt"
    )
    processor = AutoImageProcessor.from_pretrained(original, backend="pil")
    pixels = torch.cat(
        [processor(images=one, return_tensors="pt")["pixel_values"] for one in images]
    )
    expected = model(**tokens, pixel_values=pixels).logits_per_image.softmax(dim=1).numpy()
    for scores, row in zip(found, expected, strict=True):
        assert [score.probability for score in scores] == pytest.approx(sorted(row)[::-1], abs=1e-4)
        assert scores[0].label == LABELS[row.argmax()]


def test_several_templates_are_averaged_as_unit_vectors(pair):
    model = dualpath.load(pair[1])
    classifier = ZeroShotClassifier.from_labels(model, ["dog"], IMAGENET_TEMPLATES)
    vectors = model.embed_texts([template.replace("{}", "dog") for template in IMAGENET_TEMPLATES])
    mean = vectors.mean(axis=0)
    assert classifier.vectors[0] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)
    assert classifier.logit_scale == pytest.approx(model.similarity.logit_scale)


def test_a_label_may_have_another_name_in_prompts(pair):
    model = dualpath.load(pair[1])
    named = ZeroShotClassifier.from_labels(model, ["n02084071=dog", "cat"])
    plain = ZeroShotClassifier.from_labels(model, ["dog", "cat"])
    assert named.labels == ("n02084071", "cat")
    assert np.array_equal(named.vectors, plain.vectors)


def test_a_model_that_was_trained_here_uses_its_calibration_or_100(bundle):
    model = dualpath.load(bundle)
    model.metrics = {}
    assert model_scale(model) == 100
    fitted = {"slope": 8.0, "intercept": -4.0, "error": 0.1, "auroc": 0.9, "images": 10}
    model.metrics = {"validation": {"calibration": fitted}}
    assert model_scale(model) == 8


@pytest.mark.parametrize(
    ("labels", "templates", "message"),
    [
        ([], ["{}"], "there are no labels"),
        (["a", "b", "a"], ["{}"], "'a' is listed more than once"),
        (["a", "b="], ["{}"], "a label is empty"),
        (["a"], [], "there is no template"),
        (["a"], ["a photo"], "the template 'a photo' has no {}"),
    ],
)
def test_labels_and_templates_that_cannot_be_used_are_named(pair, labels, templates, message):
    with pytest.raises(ClassificationError, match=message):
        ZeroShotClassifier.from_labels(dualpath.load(pair[1]), labels, templates)


def test_the_fitted_scale_recovers_the_scale_of_the_data():
    generator = np.random.default_rng(0)
    cosines = generator.uniform(-0.3, 0.5, (20_000, 4)).astype(np.float32)
    draws = softmax(12 * cosines).cumsum(axis=1)
    targets = (generator.random((20_000, 1)) > draws[:, :3]).sum(axis=1)
    assert fit_logit_scale(cosines, targets) == pytest.approx(12, rel=0.05)
