"""Measuring, indexing, asking, and how long it takes to begin."""

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
from timing import Row, paired

import dualpath
from dualpath.evaluation.protocols import evaluate_all

sys.path.append(str(Path(__file__).parents[1]))
from evaluation import CAPTIONS_PER_IMAGE, numpy_loop, unit_vectors

IMPORT_TORCH = [sys.executable, "-c", "import torch"]


def evaluation_rows() -> Iterator[Row]:
    images = unit_vectors(5000, 1024, seed=0)
    texts = unit_vectors(CAPTIONS_PER_IMAGE * 5000, 1024, seed=1)
    of_images = np.arange(5000)
    of_texts = np.repeat(of_images, CAPTIONS_PER_IMAGE)
    yield paired(
        "evaluation",
        "5,000 images x 25,000 captions x 1,024 numbers, both directions",
        lambda: evaluate_all(images, texts, of_images, of_texts),
        "a straightforward numpy loop over the queries",
        lambda: numpy_loop(images, texts),
        rounds=1,
    )


def gallery_rows(material: Material, bundle: Path, scratch: Path) -> Iterator[Row]:
    model = dualpath.load(bundle)
    files = material.files
    turns = iter(range(100))

    def index() -> None:
        with dualpath.Gallery.open(scratch / f"gallery-{next(turns)}", model=model) as gallery:
            gallery.add(material.folder)

    yield paired(
        "gallery",
        f"index {len(files)} JPEG files of 500 x 375, {bundle.name}",
        index,
        "embed them alone",
        lambda: model.embed_images(files, workers=1),
        rounds=3,
    )
    with dualpath.Gallery.open(scratch / "asked", model=model) as gallery:
        gallery.add(material.folder)
        vectors = model.embed_images(files)
        sentence = "a dog runs through the snow"
        yield paired(
            "gallery",
            f"from a sentence to the files of its images, among {len(files)}",
            lambda: gallery.search(sentence, top=10),
            "embed the sentence and multiply by every vector",
            lambda: np.argsort(-(vectors @ model.embed_texts([sentence])[0]))[:10],
            rounds=15,
        )
    command = [sys.executable, "-m", "dualpath"]
    search = [*command, "search", str(scratch / "asked"), sentence]
    yield paired(
        "start",
        "`dualpath search`, from the command to the answer",
        lambda: subprocess.run(search, capture_output=True, check=True),
        "`import torch` alone",
        lambda: subprocess.run(IMPORT_TORCH, check=True),
        rounds=3,
    )
    yield paired(
        "start",
        "`dualpath serve`, from the command to the first answer",
        lambda: _serve([*command, "serve", str(scratch / "asked")]),
        "`import torch` alone",
        lambda: subprocess.run(IMPORT_TORCH, check=True),
        rounds=3,
    )
    for folder in scratch.glob("gallery-*"):
        shutil.rmtree(folder)


def _serve(command: list[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
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
