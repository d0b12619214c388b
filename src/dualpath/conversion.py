"""One module of torch as a file of another runtime, in single precision or in 8 bits."""

from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from dualpath.runtimes import Runtime, kept_signal_stack


def convert(
    module: nn.Module,
    example: Tensor,
    free: dict[int, Any],
    runtime: Runtime,
    calibration: list[npt.NDArray[Any]],
    path: Path,
) -> None:
    """Write a module of one input for a runtime.

    Args:
        free: the dimensions of the input that may differ from the example's.
        calibration: inputs that set the ranges of int8; none: fp32.
    """
    import onnx

    program = torch.onnx.export(
        module.eval(),
        (example,),
        dynamo=True,
        dynamic_shapes=(free,),
        input_names=["batch"],
        output_names=["features"],
        verbose=False,
    )
    assert program is not None
    if runtime == "onnxruntime":
        onnx.save(program.model_proto, str(path))
        if calibration:
            _quantise_onnx(path, calibration)
        return
    import openvino

    source = path.parent.with_name(f"{path.stem}.onnx")
    onnx.save(program.model_proto, str(source))
    network = openvino.convert_model(source)
    if calibration:
        network = _quantise_openvino(network, calibration)
    openvino.save_model(network, path, compress_to_fp16=False)


class _Inputs:
    """The inputs that set the ranges, as ONNX Runtime asks for them."""

    def __init__(self, batches: list[npt.NDArray[Any]]) -> None:
        self._rest = iter(batches)

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        batch = next(self._rest, None)
        return None if batch is None else {"batch": batch}


def _quantise_onnx(path: Path, batches: list[npt.NDArray[Any]]) -> None:
    """Quantise a network in place.

    ONNX Runtime has products of 8-bit numbers where all activations are of one type, which its own
    quantiser sees to and nncf does not.
    """
    from onnxruntime import quantization as q

    q.quant_pre_process(path, path, skip_symbolic_shape=True)
    q.quantize_static(
        path,
        path,
        _Inputs(batches),
        per_channel=True,
        activation_type=q.QuantType.QUInt8,
        weight_type=q.QuantType.QInt8,
    )


def _quantise_openvino(network: Any, batches: list[npt.NDArray[Any]]) -> Any:
    import nncf

    with kept_signal_stack():  # it runs the network to see its ranges
        return nncf.quantize(network, nncf.Dataset(batches), subset_size=len(batches))
