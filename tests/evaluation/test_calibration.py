import numpy as np
import pytest

from dualpath.evaluation.calibration import expected_calibration_error, fit_calibration


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_probabilities_are_the_measured_frequencies():
    generator = np.random.default_rng(0)
    images = unit(generator.standard_normal((300, 8)))
    noise = generator.uniform(0.05, 1.5, (1500, 1)) * generator.standard_normal((1500, 8))
    owners = np.repeat(np.arange(300), 5)
    captions = unit(images[owners] + noise)
    fitted = fit_calibration(images, captions, np.arange(300), owners)
    assert fitted.slope > 0
    assert fitted.images == 300
    assert fitted.error < 0.08
    assert 0.7 < fitted.auroc <= 1
    assert fitted.probability(0.99) > 0.6 > 0.3 > fitted.probability(0.5)


def test_a_model_without_any_knowledge_gives_no_high_probability():
    generator = np.random.default_rng(1)
    images, captions = (unit(generator.standard_normal((n, 16))) for n in (200, 400))
    fitted = fit_calibration(images, captions, np.arange(200), np.repeat(np.arange(200), 2))
    best = (captions @ images.T).max()
    assert fitted is None or fitted.probability(float(best)) < 0.1


def test_one_instance_alone_gives_no_curve():
    one = unit(np.ones((1, 4)))
    assert fit_calibration(one, one, np.zeros(1, int), np.zeros(1, int)) is None


def test_expected_calibration_error_by_hand():
    # Bin 0.2 to 0.3 holds one right of two (distance 0.25), bin 0.9 to 1 two of two (0.05).
    probabilities = np.array([0.25, 0.25, 0.95, 0.95])
    outcomes = np.array([True, False, True, True])
    assert expected_calibration_error(probabilities, outcomes) == pytest.approx(0.15)
