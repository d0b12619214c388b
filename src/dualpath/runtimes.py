"""Other engines than torch for the image path: ONNX Runtime and OpenVINO, on a CPU.

A bundle carries what :mod:`dualpath.exporting` wrote into it: ``runtimes.json`` and, for each
runtime and precision, the image path as that runtime reads it. Whoever loads the bundle gets the
fastest of those that are installed.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from dualpath.bundle import RUNTIMES, BundleError
from dualpath.vectors import Vectors

Runtime = Literal["onnxruntime", "openvino"]
Precision = Literal["fp32", "int8"]

# Pixels, (n, 3, h, w) uint8, to features, (n, dim) float32.
Engine = Callable[[npt.NDArray[np.uint8]], Vectors]


@dataclass(frozen=True)
class Exported:
    """An image path in another runtime, and what was measured when it was written.

    fingerprint: of the weights it was made from.
    cosine: the lowest between its features and torch's, over the pictures it was checked on.
    speedup: pictures a second over torch's, median of batches of 16 on the machine of the export.
    """

    runtime: Runtime
    precision: Precision
    file: str
    fingerprint: str
    cosine: float
    speedup: float


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


def fastest(folder: Path, fingerprint: Callable[[], str]) -> Exported | None:
    """Return the fastest image path of a bundle whose runtime is installed; none: torch.

    Raises:
        BundleError: it was exported from other weights than ``fingerprint`` tells.
    """
    usable = [one for one in read_exports(folder) if find_spec(one.runtime) is not None]
    best = max(usable, key=lambda one: one.speedup, default=None)
    if best is None or best.speedup <= 1:
        return None
    if best.fingerprint != fingerprint():
        raise BundleError(
            f"{folder / best.file}: exported from other weights than those beside it; export "
            f"again, or delete {RUNTIMES}"
        )
    return best


def describe_runtime(exported: Exported | None) -> str:
    """Tell in a few words what embeds pictures."""
    if exported is None:
        return "torch"
    return f"{exported.runtime}, {exported.precision} ({exported.speedup:.1f} x torch at export)"


def open_engine(path: Path) -> Engine:
    """Open an exported image path; it uses as many threads as torch does.

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

    def run(pixels: npt.NDArray[np.uint8]) -> Vectors:
        features: Vectors = session.run(None, {name: pixels})[0]
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
    compiled = openvino.Core().compile_model(str(path), "CPU", options)

    def run(pixels: npt.NDArray[np.uint8]) -> Vectors:
        # A request of its own for each call: threads of a server embed at the same time.
        features: Vectors = compiled.create_infer_request().infer([pixels])[0]
        return features

    return run
