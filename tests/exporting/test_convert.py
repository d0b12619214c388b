import numpy as np
import pytest
import torch
from torch import nn

from dualpath.exporting.convert import convert
from dualpath.inference.runtimes import open_engine
from dualpath.models.onnx import OnnxSource

pytestmark = pytest.mark.slow


@pytest.fixture
def network():
    torch.manual_seed(0)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
    return nn.Sequential(first, pool, nn.Linear(8, 4)).eval()


@pytest.fixture
def batches():
    generator = np.random.default_rng(0)
    return [generator.normal(size=(1, 3, 16, 16)).astype(np.float32) for _ in range(16)]


def convert_to(runtime, network, folder, calibration=()):
    folder.mkdir()
    path = folder / f"network.{'onnx' if runtime == 'onnxruntime' else 'xml'}"
    source = OnnxSource(network, torch.zeros(2, 3, 16, 16), {0: "images"})
    convert(source, runtime, list(calibration), path)
    return path


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_converted_network_computes_the_same_for_any_batch_size(
    network, batches, runtime, tmp_path
):
    engine = open_engine(convert_to(runtime, network, tmp_path / "written"))
    for size in (1, 2, 5):
        batch = np.concatenate(batches[:size])
        with torch.no_grad():
            expected = network(torch.from_numpy(batch)).numpy()
        assert engine(batch) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_int8_is_close_and_not_equal(network, batches, runtime, tmp_path):
    engine = open_engine(convert_to(runtime, network, tmp_path / "written", batches))
    batch = np.concatenate(batches)
    with torch.no_grad():
        expected = network(torch.from_numpy(batch)).numpy()
    difference = np.abs(engine(batch) - expected).max()
    assert 1e-5 < difference < 0.1 * np.abs(expected).max()
