"""Choosing and opening exported encoders; tests/exporting makes real ones."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from PIL import Image

import dualpath
from dualpath.errors import BundleError
from dualpath.inference.runtimes import (
    ExportedEncoder,
    has_gpu,
    limit_threads,
    num_threads,
    open_engine,
    read_exports,
    select_exports,
    write_exports,
)

ONNX = ExportedEncoder("onnxruntime", "fp32", "image_encoder.fp32.onnx", "abc", 1.0, 2.0)
OPENVINO = ExportedEncoder("openvino", "int8", "image_encoder.int8.xml", "abc", 0.99, 3.0)
TEXT = replace(ONNX, file="text_encoder.fp32.onnx", encoder="text_encoder", speedup=1.5)


@pytest.fixture
def copy(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "copy", ignore=shutil.ignore_patterns("training"))


def write_files(folder, *exports):
    for exported in exports:
        (folder / exported.file).touch()
    write_exports(folder, list(exports))


def test_exports_are_read_as_they_were_written(tmp_path):
    assert read_exports(tmp_path) == []
    write_exports(tmp_path, [ONNX, OPENVINO, TEXT])
    assert read_exports(tmp_path) == [ONNX, OPENVINO, TEXT]
    assert str(OPENVINO) == "openvino, int8 (3.0 x torch at export)"


def test_the_fastest_export_of_each_encoder_is_selected(tmp_path):
    write_files(tmp_path, OPENVINO, ONNX, TEXT)
    selected = select_exports(tmp_path, "abc")
    assert selected == {"image_encoder": OPENVINO, "text_encoder": TEXT}


def test_an_export_that_is_slower_than_torch_is_not_selected_before_one_not_measured(tmp_path):
    measured, other = replace(OPENVINO, speedup=0.9), replace(ONNX, speedup=None)
    write_files(tmp_path, other, measured)
    assert select_exports(tmp_path, "abc") == {"image_encoder": other}
    assert str(other) == "onnxruntime, fp32"


def test_an_export_without_its_runtime_is_not_selected(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    write_files(tmp_path, OPENVINO, ONNX)
    assert select_exports(tmp_path, "abc") == {"image_encoder": ONNX}


def test_an_export_of_other_weights_is_refused(copy):
    write_exports(copy, [ONNX])
    with pytest.raises(BundleError, match="exported from other weights than those beside it"):
        dualpath.load(copy, device="cpu")
    assert dualpath.load(copy, runtime="torch").exported == {}


@pytest.mark.parametrize("content", [b"no network", None])
@pytest.mark.parametrize("exported", [ONNX, OPENVINO], ids=["onnxruntime", "openvino"])
def test_a_damaged_or_missing_export_is_named(copy, content, exported):
    fingerprint = dualpath.load(copy).fingerprint
    text = [one for one in read_exports(copy) if one.encoder == "text_encoder"]
    write_exports(copy, [*text, replace(exported, fingerprint=fingerprint)])
    if content is not None:
        (copy / exported.file).write_bytes(content)
    else:
        (copy / exported.file).unlink(missing_ok=True)
    with pytest.raises(BundleError, match=rf"{exported.file}: .*export again"):
        dualpath.load(copy, device="cpu").embed_images([Image.new("RGB", (40, 40))])


@pytest.mark.parametrize("content", ["{", json.dumps([{"unknown": 1}])])
def test_a_damaged_list_of_exports_is_named(copy, content):
    (copy / "runtimes.json").write_text(content)
    with pytest.raises(BundleError, match=r"runtimes\.json: damaged .* export again"):
        dualpath.load(copy, device="cpu")


def test_threads_are_those_of_torch():
    before = num_threads()
    limit_threads(1)
    assert num_threads() == 1
    limit_threads(before)
    assert has_gpu() in (True, False)


# Python's signal handlers run on the signal stack of the thread. If it does not exist any more, the
# next signal ends the process without any message: this is how a worker of pytest-xdist vanished.
SIGNAL_STACK = """
import ctypes, faulthandler, gc, os, signal, subprocess, sys, threading

import nncf
import numpy as np
import openvino
import torch
from openvino import opset13 as ops

from dualpath.exporting.convert import _quantise_openvino
from dualpath.inference.runtimes import open_engine


class Stack(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


def signal_stack():
    stack = Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    return stack.start, stack.flags


def open_two():
    engines = [open_engine(path), open_engine(path)]
    for engine in engines:
        engine(batch)
    # The first that was opened goes first.
    del engines[0]
    gc.collect()
    engines.clear()
    gc.collect()


def quantise():
    _quantise_openvino(openvino.Core().read_model(path), [batch] * 4)
    gc.collect()


def in_a_thread(function):
    seen = []

    def work():
        before = signal_stack()
        function()
        seen.append(signal_stack() == before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


from pathlib import Path

path = Path(sys.argv[1]) / "network.xml"
batch = np.ones((1, 3, 8, 8), np.float32)
pixels = ops.parameter([1, 3, 8, 8], np.float32)
weight = ops.constant(np.ones((4, 3, 3, 3), np.float32))
sides = [0, 0]
convolved = ops.convolution(pixels, weight, [1, 1], sides, sides, [1, 1])
openvino.save_model(openvino.Model([convolved], [pixels]), path)
faulthandler.enable()  # as pytest does; it sets a signal stack
list(torch.utils.data.DataLoader(torch.arange(4), num_workers=2))  # sets a handler of SIGCHLD
work = {"open_two": open_two, "quantise": quantise}[sys.argv[2]]
before = signal_stack()
if sys.argv[3] == "thread":
    in_a_thread(work)
else:
    work()
assert signal_stack() == before, (signal_stack(), before)
subprocess.run(["true"])  # SIGCHLD
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
try:
    os.kill(os.getpid(), signal.SIGINT)
    signal.pause()
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="signal stacks of Linux")
@pytest.mark.parametrize("where", ["main", "thread"])
@pytest.mark.parametrize("work", ["open_two", "quantise"])
def test_signals_are_handled_after_openvino_networks_were_deleted(tmp_path, work, where):
    command = [sys.executable, "-c", SIGNAL_STACK, str(tmp_path), work, where]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("interrupted\n")


def test_an_engine_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(BundleError, match=r"network\.xml: missing; export again"):
        open_engine(tmp_path / "network.xml")
