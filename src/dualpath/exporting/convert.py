"""Converting one torch module to a file of another runtime, in single precision or int8."""

from pathlib import Path
from typing import Any

import numpy.typing as npt

from dualpath.inference.runtimes import Runtime, preserved_signal_stack
from dualpath.models.onnx import OnnxSource, save_onnx


def convert(
    source: OnnxSource, runtime: Runtime, calibration: list[npt.NDArray[Any]], path: Path
) -> None:
    """Write a module with one input for a runtime.

    Args:
        calibration: inputs that set the ranges of int8. Empty: single precision.
    """
    if runtime == "onnxruntime":
        save_onnx(source, path)
        if calibration:
            _quantise_onnx(path, calibration)
        return
    import openvino

    graph = path.parent.with_name(f"{path.stem}.onnx")
    save_onnx(source, graph)
    network = openvino.convert_model(graph)
    if calibration:
        network = _quantise_openvino(network, calibration)
    openvino.save_model(network, path, compress_to_fp16=False)


class _CalibrationReader:
    """Hands calibration inputs to ONNX Runtime's quantiser."""

    def __init__(self, batches: list[npt.NDArray[Any]]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"batch": batch}


def _quantise_onnx(path: Path, batches: list[npt.NDArray[Any]]) -> None:
    """Quantise a network in place.

    ONNX Runtime has int8 kernels for activations of one signedness, which its own quantiser
    produces. NNCF targets OpenVINO and mixes them.
    """
    from onnxruntime import quantization as q

    q.quant_pre_process(path, path, skip_symbolic_shape=True)
    q.quantize_static(
        path,
        path,
        _CalibrationReader(batches),
        per_channel=True,
        activation_type=q.QuantType.QUInt8,
        weight_type=q.QuantType.QInt8,
    )


def _quantise_openvino(network: Any, batches: list[npt.NDArray[Any]]) -> Any:
    import nncf

    with preserved_signal_stack():  # NNCF runs the network to measure ranges
        return nncf.quantize(network, nncf.Dataset(batches), subset_size=len(batches))
