"""The runtimes that execute an encoder on a CPU: ONNX Runtime, OpenVINO, or torch.

:mod:`dualpath.exporting` writes ``runtimes.json`` and one encoder for each runtime and precision
into a bundle. Loading the bundle takes the fastest exported encoder whose runtime is installed.

torch itself is imported at call time alone, by :func:`has_gpu`, :func:`limit_threads` and
:mod:`dualpath.inference.torch_backend`.
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

from dualpath.errors import BundleError
from dualpath.types import Vectors
from dualpath.utils.files import atomic_write
from dualpath.utils.text import error_reason

RUNTIMES_FILE = "runtimes.json"
Runtime = Literal["onnxruntime", "openvino"]
Precision = Literal["fp32", "int8"]
EncoderName = Literal["image_encoder", "text_encoder"]

# Pixels, (n, 3, h, w) uint8, or token ids, (n, positions) int64, to features, (n, dim) float32.
Engine = Callable[[npt.NDArray[Any]], Vectors]


@dataclass(frozen=True)
class ExportedEncoder:
    """An encoder for another runtime, with what was measured when it was exported.

    Attributes:
        fingerprint: of the weights it was exported from.
        cosine: lowest cosine between its features and torch's on the images or captions compared.
        speedup: over torch on the exporting machine: median of batches of 16 images, or of single
            captions.
    """

    runtime: Runtime
    precision: Precision
    file: str
    fingerprint: str
    cosine: float
    speedup: float
    encoder: EncoderName = "image_encoder"

    def __str__(self) -> str:
        return f"{self.runtime}, {self.precision} ({self.speedup:.1f} x torch at export)"


def read_exports(folder: Path) -> list[ExportedEncoder]:
    """Return the exported encoders of a bundle.

    Raises:
        BundleError: ``runtimes.json`` is damaged.
    """
    path = folder / RUNTIMES_FILE
    if not path.is_file():
        return []
    try:
        return [ExportedEncoder(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise BundleError(f"{path}: damaged ({error}); delete it and export again") from error


def write_exports(folder: Path, exports: list[ExportedEncoder]) -> None:
    """Write ``runtimes.json``."""
    text = json.dumps([asdict(exported) for exported in exports], indent=2)
    atomic_write(folder / RUNTIMES_FILE, text + "\n")


def select_exports(
    folder: Path, fingerprint: Callable[[], str]
) -> dict[EncoderName, ExportedEncoder]:
    """Return the fastest exported encoders that are faster than torch and can run here.

    Raises:
        BundleError: one of them was exported from other weights than ``fingerprint()``.
    """
    fastest: dict[EncoderName, ExportedEncoder] = {}
    for exported in sorted(read_exports(folder), key=lambda exported: exported.speedup):
        if exported.speedup > 1 and find_spec(exported.runtime) is not None:
            fastest[exported.encoder] = exported
    for exported in fastest.values():
        if exported.fingerprint != fingerprint():
            raise BundleError(
                f"{folder / exported.file}: exported from other weights than those beside it; "
                f"export again, or delete {RUNTIMES_FILE}"
            )
    return fastest


def open_engine(path: Path) -> Engine:
    """Open an exported encoder; it uses as many threads as torch.

    Raises:
        BundleError: the file is missing or damaged.
    """
    if not path.is_file():
        raise BundleError(f"{path}: missing; export again, or delete {RUNTIMES_FILE} beside it")
    try:
        return (_open_onnxruntime if path.suffix == ".onnx" else _open_openvino)(path)
    except Exception as error:  # each runtime has error classes of its own
        raise BundleError(
            f"{path}: cannot be opened ({error_reason(error)}); export again"
        ) from error


def has_gpu() -> bool:
    """Return whether torch can compute on a GPU of NVIDIA's kind."""
    import torch

    return torch.cuda.is_available()


def num_threads() -> int:
    """Return the number of threads that torch computes with."""
    import torch

    return torch.get_num_threads()


def limit_threads(count: int) -> None:
    """Let torch and the engines opened from now on compute with this many threads."""
    import torch

    torch.set_num_threads(count)


def _open_onnxruntime(path: Path) -> Engine:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(batch: npt.NDArray[Any]) -> Vectors:
        features: Vectors = session.run(None, {name: batch})[0]
        return features

    return run


def _open_openvino(path: Path) -> Engine:
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        # Where the hardware has bfloat16, OpenVINO would use it; the export is fp32.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    with preserved_signal_stack():
        compiled = openvino.Core().compile_model(str(path), "CPU", options)

    def run(batch: npt.NDArray[Any]) -> Vectors:
        # A new request for each call, since threads of a server embed at the same time.
        features: Vectors = compiled.create_infer_request().infer([batch])[0]
        return features

    return run


@contextmanager
def preserved_signal_stack() -> Iterator[None]:
    """Restore this thread's signal stack after OpenVINO has compiled a network.

    Each CPU plugin of OpenVINO (one per ``Core``) installs a signal stack. When it is deleted, it
    restores the stack that it found, which may be that of a plugin deleted before (seen with
    OpenVINO 2026.4.1). Python's signal handlers run on that stack. The next signal with a handler
    would then end the process: Ctrl-C, or the end of a child process once a data loader of torch
    has installed its handler. Not even ``faulthandler`` would report it.
    """
    if sys.platform != "linux":
        yield
        return
    system = ctypes.CDLL(None)
    stack = ctypes.create_string_buffer(64)  # larger than a stack_t
    system.sigaltstack(None, stack)
    try:
        yield
    finally:
        system.sigaltstack(stack, None)
