"""The runtimes that execute the encoders of a bundle without torch: ONNX Runtime and OpenVINO.

Every bundle carries both encoders for ONNX Runtime in single precision. :mod:`dualpath.exporting`
adds further ones. ``runtimes.json`` lists them. Loading a bundle takes the fastest of each encoder
whose runtime is installed.
"""

import ctypes
import json
import os
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
_REPAIR = f"export again, or delete {RUNTIMES_FILE} beside it and load the bundle with torch"
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
            captions. None: not measured.
        placed_positions: of a text encoder. A number: the caller places each caption at every start
            on an axis of so many positions, and adds the features
            (:func:`dualpath.inference.placements.place_everywhere`).
    """

    runtime: Runtime
    precision: Precision
    file: str
    fingerprint: str
    cosine: float
    speedup: float | None
    encoder: EncoderName = "image_encoder"
    placed_positions: int | None = None

    def __str__(self) -> str:
        name = f"{self.runtime}, {self.precision}"
        return name if self.speedup is None else f"{name} ({self.speedup:.1f} x torch at export)"


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


def select_exports(folder: Path, fingerprint: str) -> dict[EncoderName, ExportedEncoder]:
    """Return the fastest exported encoders that can run here.

    Where nothing was measured, an encoder counts as fast as torch.

    Raises:
        BundleError: one of them was exported from other weights than those of ``fingerprint``.
    """
    fastest: dict[EncoderName, ExportedEncoder] = {}
    for exported in sorted(read_exports(folder), key=lambda exported: exported.speedup or 1.0):
        if find_spec(exported.runtime) is not None:
            fastest[exported.encoder] = exported
    for exported in fastest.values():
        if not (folder / exported.file).is_file():
            raise BundleError(f"{folder / exported.file}: missing; {_REPAIR}")
        if exported.fingerprint != fingerprint:
            raise BundleError(
                f"{folder / exported.file}: exported from other weights than those beside it; "
                f"{_REPAIR}"
            )
    return fastest


def open_engine(path: Path) -> Engine:
    """Open an exported encoder; it computes with :func:`num_threads` threads.

    Raises:
        BundleError: the file is missing or damaged.
    """
    if not path.is_file():
        raise BundleError(f"{path}: missing; {_REPAIR}")
    try:
        return (_open_onnxruntime if path.suffix == ".onnx" else _open_openvino)(path)
    except Exception as error:  # each runtime has error classes of its own
        raise BundleError(f"{path}: cannot be opened ({error_reason(error)}); {_REPAIR}") from error


def has_gpu() -> bool:
    """Return whether torch is installed and this machine has a GPU of NVIDIA.

    The driver is asked, since torch takes seconds to import.
    """
    if find_spec("torch") is None or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return not failed and count.value > 0


def num_threads() -> int:
    """Return the number of threads of an engine: ``OMP_NUM_THREADS``, else the CPUs it may use."""
    configured = os.environ.get("OMP_NUM_THREADS", "")
    if configured.isdecimal() and int(configured) > 0:
        return int(configured)
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def limit_threads(count: int) -> None:
    """Let engines that are opened from now on compute with this many threads, and torch, too."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


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
