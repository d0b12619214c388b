"""Other engines than torch: ONNX Runtime and OpenVINO, on a CPU.

A bundle carries what :mod:`dualpath.exporting` wrote into it: ``runtimes.json`` and, for each
runtime and precision, an encoder as that runtime reads it. Whoever loads the bundle gets the
fastest of those that are installed, for pictures and for sentences.
"""

import ctypes
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
import torch

from dualpath.bundle import RUNTIMES, BundleError
from dualpath.vectors import Vectors

Runtime = Literal["onnxruntime", "openvino"]
Precision = Literal["fp32", "int8"]
Encoder = Literal["image_encoder", "text_encoder"]

# Pixels, (n, 3, h, w) uint8, or token ids, (n, positions) int64, to features, (n, dim) float32.
Engine = Callable[[npt.NDArray[Any]], Vectors]


@dataclass(frozen=True)
class Exported:
    """An encoder in another runtime, and what was measured when it was written.

    fingerprint: of the weights it was made from.
    cosine: the lowest between its features and torch's, over what it was checked on.
    speedup: over torch on the machine of the export, the median of batches of 16 pictures or of
        single sentences.
    """

    runtime: Runtime
    precision: Precision
    file: str
    fingerprint: str
    cosine: float
    speedup: float
    encoder: Encoder = "image_encoder"


def read_exports(folder: Path) -> list[Exported]:
    """Return what was exported into a bundle.

    Raises:
        BundleError: ``runtimes.json`` is damaged.
    """
    path = folder / RUNTIMES
    if not path.is_file():
        return []
    try:
        return [Exported(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise BundleError(f"{path}: damaged ({error}); delete it and export again") from error


def write_exports(folder: Path, exports: list[Exported]) -> None:
    """Write ``runtimes.json``."""
    text = json.dumps([asdict(exported) for exported in exports], indent=2)
    (folder / RUNTIMES).write_text(text + "\n", encoding="utf-8")


def fastest(folder: Path, fingerprint: Callable[[], str]) -> dict[Encoder, Exported]:
    """Return the fastest exported encoders whose runtime is installed, without those torch beats.

    Raises:
        BundleError: one was exported from other weights than ``fingerprint`` tells.
    """
    best: dict[Encoder, Exported] = {}
    for one in sorted(read_exports(folder), key=lambda one: one.speedup):
        if one.speedup > 1 and find_spec(one.runtime) is not None:
            best[one.encoder] = one
    for one in best.values():
        if one.fingerprint != fingerprint():
            raise BundleError(
                f"{folder / one.file}: exported from other weights than those beside it; export "
                f"again, or delete {RUNTIMES}"
            )
    return best


def describe_runtime(exported: Exported | None) -> str:
    """Tell in a few words what an encoder runs in."""
    if exported is None:
        return "torch"
    return f"{exported.runtime}, {exported.precision} ({exported.speedup:.1f} x torch at export)"


def open_engine(path: Path) -> Engine:
    """Open an exported encoder; it uses as many threads as torch does.

    Raises:
        BundleError: the file is missing or damaged.
    """
    if not path.is_file():
        raise BundleError(f"{path}: missing; export again, or delete {RUNTIMES} beside it")
    try:
        return (_open_onnxruntime if path.suffix == ".onnx" else _open_openvino)(path)
    except Exception as error:  # each runtime raises kinds of its own
        reason = " ".join(str(error).split())[:150]
        raise BundleError(f"{path}: cannot be opened ({reason}); export again") from error


def _open_onnxruntime(path: Path) -> Engine:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(batch: npt.NDArray[Any]) -> Vectors:
        features: Vectors = session.run(None, {name: batch})[0]
        return features

    return run


def _open_openvino(path: Path) -> Engine:
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        # Where the hardware has bfloat16 it would be taken unasked; fp32 is what was exported.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    with kept_signal_stack():
        compiled = openvino.Core().compile_model(str(path), "CPU", options)

    def run(batch: npt.NDArray[Any]) -> Vectors:
        # A request of its own for each call: threads of a server embed at the same time.
        features: Vectors = compiled.create_infer_request().infer([batch])[0]
        return features

    return run


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Give this thread its signal stack back after OpenVINO has compiled networks.

    On processors with AMX each compiled network puts a stack of its own in place and, when it goes,
    the one it found, which may have gone before (seen with OpenVINO 2026.4.1). Python's handlers
    run on that stack: Ctrl-C would be a segmentation fault.
    """
    if sys.platform != "linux":
        yield
        return
    system = ctypes.CDLL(None)
    stack = ctypes.create_string_buffer(64)  # a stack_t is smaller
    system.sigaltstack(None, stack)
    try:
        yield
    finally:
        system.sigaltstack(stack, None)
