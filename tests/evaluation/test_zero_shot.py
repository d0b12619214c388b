"""Zero-shot classification of folders, and its measurement."""

import json

import numpy as np
import pytest
from PIL import Image

from dualpath.data.manifest import read_image_folder
from dualpath.errors import ClassificationError
from dualpath.evaluation.zero_shot import fit_temperature, measure_zero_shot, read_targets
from dualpath.inference.zero_shot import ZeroShotClassifier

LABELS = ("cat", "dog", "horse")


@pytest.fixture
def class_folders(tmp_path):
    for number, label in enumerate(("dog", "cat", "dog")):
        path = tmp_path / "images" / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(path)
    return tmp_path / "images"


def test_the_names_of_the_folders_are_the_labels(class_folders):
    images = read_image_folder(class_folders).images
    names = list(images.column("file_name"))
    targets = read_targets(images, LABELS, "folder")
    assert [LABELS[target] for target in targets] == [name.split("/")[0] for name in names]


def test_a_metadata_key_holds_the_labels(class_folders):
    lines = [{"file_name": "dog/0.png", "kind": "horse"}, {"file_name": "cat/1.png", "kind": "cat"}]
    text = "".join(json.dumps({**line, "captions": []}) + "\n" for line in lines)
    (class_folders / "metadata.jsonl").write_text(text)
    images = read_image_folder(class_folders).images
    assert read_targets(images, LABELS, "kind").tolist() == [2, 0]


def test_an_image_without_a_known_label_is_named(class_folders):
    images = read_image_folder(class_folders).images
    with pytest.raises(ClassificationError, match=r"dog/.*'dog' by 'folder', is not among the"):
        read_targets(images, ["cat"], "folder")
    with pytest.raises(ClassificationError, match="None by 'kind'"):
        read_targets(images, LABELS, "kind")


def test_top_1_top_5_and_the_mean_per_class_are_measured():
    classifier = ZeroShotClassifier(tuple("abcdefg"), np.eye(7, dtype=np.float32), 5.0)
    ordered = np.linspace(1, 0, 7, dtype=np.float32)  # a is the most probable label, g the least
    images = np.stack([ordered] * 4)
    result = measure_zero_shot(classifier, images, np.array([0, 0, 4, 6]))
    assert (result.images, result.labels) == (4, 7)
    assert (result.top_1, result.top_5) == (50, 75)
    assert result.mean_per_class == pytest.approx(100 / 3)


def test_a_fitted_temperature_lowers_the_calibration_error():
    generator = np.random.default_rng(0)
    classifier = ZeroShotClassifier(LABELS, np.eye(3, dtype=np.float32), 100.0)
    targets = generator.integers(0, 3, 3000)
    images = (0.1 * np.eye(3)[targets] + generator.normal(0, 0.1, (3000, 3))).astype(np.float32)
    before = measure_zero_shot(classifier, images[1500:], targets[1500:])
    fitted = fit_temperature(classifier, images[:1500], targets[:1500])
    after = measure_zero_shot(fitted, images[1500:], targets[1500:])
    assert after.top_1 == before.top_1
    assert before.calibration_error > 0.2
    assert after.calibration_error < 0.05
