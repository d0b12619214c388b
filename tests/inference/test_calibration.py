import numpy as np
import pytest

from dualpath.inference.calibration import Calibration, expected_calibration_error, fit_calibration


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_probabilities_are_the_shares_they_claim_to_be():
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


def test_a_text_path_that_knows_nothing_gives_no_high_probability():
    generator = np.random.default_rng(1)
    images, captions = (unit(generator.standard_normal((n, 16))) for n in (200, 400))
    fitted = fit_calibration(images, captions, np.arange(200), np.repeat(np.arange(200), 2))
    best = (captions @ images.T).max()
    assert fitted is None or fitted.probability(float(best)) < 0.1


def test_there_is_no_curve_where_nothing_can_be_told_apart():
    one = unit(np.ones((1, 4)))
    assert fit_calibration(one, one, np.zeros(1, int), np.zeros(1, int)) is None


def test_expected_calibration_error_by_hand():
    # Bin 0.2 to 0.3 holds one right of two (distance 0.25), bin 0.9 to 1 two of two (0.05).
    probabilities = np.array([0.25, 0.25, 0.95, 0.95])
    outcomes = np.array([True, False, True, True])
    assert expected_calibration_error(probabilities, outcomes) == pytest.approx(0.15)


def test_probability_is_the_logistic_of_a_line():
    curve = Calibration(slope=4.0, intercept=-2.0, error=0.0, auroc=1.0, images=1)
    assert curve.probability(0.5) == 0.5
    assert curve.probability(1.0) == pytest.approx(1 / (1 + np.exp(-2)))


def test_a_very_steep_curve_overflows_nowhere():
    curve = Calibration(slope=1e5, intercept=-5e4, error=0.0, auroc=1.0, images=1)
    assert curve.probability(-1.0) == 0.0
    assert curve.probability(1.0) == 1.0
