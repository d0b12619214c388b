import numpy as np
import pytest

from dualpath.inference.calibration import Calibration, logistic


def test_probability_is_the_logistic_of_a_line():
    curve = Calibration(slope=4.0, intercept=-2.0, error=0.0, auroc=1.0, images=1)
    assert curve.probability(0.5) == 0.5
    assert curve.probability(1.0) == pytest.approx(1 / (1 + np.exp(-2)))


def test_a_very_steep_curve_does_not_overflow():
    curve = Calibration(slope=1e5, intercept=-5e4, error=0.0, auroc=1.0, images=1)
    assert curve.probability(-1.0) == 0.0
    assert curve.probability(1.0) == 1.0


def test_the_logistic_function_has_its_definition():
    x = np.linspace(-20, 20, 41)
    assert logistic(x) == pytest.approx(1 / (1 + np.exp(-x)), abs=1e-12)


@pytest.mark.parametrize("key", ["images", "pictures"])  # the second in bundles before 0.2
def test_a_calibration_is_read_from_the_metrics_of_a_bundle(key):
    values = {"slope": 4.0, "intercept": -2.0, "error": 0.01, "auroc": 0.9}
    read = Calibration.from_metrics({**values, key: 7})
    assert read == Calibration(**values, images=7)
