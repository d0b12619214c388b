"""Evaluation, indexing, searching, and the time until a command answers."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from material import Material
from timing import Row, compare

import dualpath
from dualpath.evaluation.protocols import evaluate_all
from evaluation import CAPTIONS_PER_IMAGE, instances, numpy_loop, unit_vectors

DIM = 1024
SENTENCE = "a dog runs through the snow"
COMMAND = [sys.executable, "-m", "dualpath"]
IMPORT_TORCH = [sys.executable, "-c", "import torch"]


def evaluation_rows(images: int) -> Iterator[Row]:
    """Measure an evaluation of random vectors."""
    image_vectors = unit_vectors(images, DIM, seed=0)
    text_vectors = unit_vectors(CAPTIONS_PER_IMAGE * images, DIM, seed=1)
    of_images, of_texts = instances(images)
    yield compare(
        "evaluation",
        f"{images:,} images x {len(text_vectors):,} captions x {DIM:,} numbers, both directions",
        lambda: evaluate_all(image_vectors, text_vectors, of_images, of_texts),
        "a straightforward numpy loop over the queries",
        lambda: numpy_loop(image_vectors, text_vectors),
        rounds=1,
    )


def gallery_rows(material: Material, bundle: Path, scratch: Path) -> Iterator[Row]:
    """Measure indexing and searching, in Python and from the command line."""
    model = dualpath.load(bundle)
    files = material.files
    numbers = iter(range(100))

    def index() -> None:
        with dualpath.Gallery.open(scratch / f"gallery-{next(numbers)}", model=model) as gallery:
            gallery.add(material.folder)

    yield compare(
        "gallery",
        f"index {len(files)} JPEG files of 500 x 375, {bundle.name}",
        index,
        "embed them only",
        lambda: model.embed_images(files, workers=1),
        rounds=3,
    )
    for folder in scratch.glob("gallery-*"):
        shutil.rmtree(folder)
    address = scratch / "searched"
    with dualpath.Gallery.open(address, model=model) as gallery:
        gallery.add(material.folder)
        vectors = model.embed_images(files)
        yield compare(
            "gallery",
            f"from a sentence to the files of its images, among {len(files)}",
            lambda: gallery.search(SENTENCE, top=10),
            "embed the sentence and multiply by every vector",
            lambda: np.argsort(-(vectors @ model.embed_texts([SENTENCE])[0]))[:10],
            rounds=15,
        )
    yield from _start_rows(address)


def _start_rows(gallery: Path) -> Iterator[Row]:
    search = [*COMMAND, "search", str(gallery), SENTENCE]
    yield compare(
        "start",
        "`dualpath search`, from the command to the answer",
        lambda: subprocess.run(search, capture_output=True, check=True),
        "`import torch` only",
        lambda: subprocess.run(IMPORT_TORCH, check=True),
        rounds=3,
    )
    yield compare(
        "start",
        "`dualpath serve`, from the command to the first answer",
        lambda: _serve_until_ready(gallery),
        "`import torch` only",
        lambda: subprocess.run(IMPORT_TORCH, check=True),
        rounds=3,
    )


def _serve_until_ready(gallery: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [*COMMAND, "serve", str(gallery), "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).read()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise RuntimeError("the server did not start")
    finally:
        process.terminate()
        process.wait()
