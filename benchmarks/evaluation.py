"""Measure time and memory of an evaluation: 5,000 images, 25,000 captions, 1,024 numbers each.

    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --images 1000 --dim 256 --skip-numpy

Both directions are ranked. The vectors are random. A plain numpy loop over the queries is measured
for comparison. The peak memory is that of the process, including the libraries, so run nothing else
in it.
"""

import os
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from common import command_line
from dualpath.evaluation.protocols import evaluate_all
from dualpath.types import IntArray, Mask, Vectors

CAPTIONS_PER_IMAGE = 5


def unit_vectors(rows: int, dim: int, seed: int) -> Vectors:
    """Return random unit vectors, (rows, dim) float32."""
    vectors = np.random.default_rng(seed).standard_normal((rows, dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def instances(images: int) -> tuple[IntArray, IntArray]:
    """Return the instances of the images, and of their captions in the same order."""
    of_images = np.arange(images)
    return of_images, np.repeat(of_images, CAPTIONS_PER_IMAGE)


def numpy_loop(images: Vectors, texts: Vectors) -> float:
    """Return the rsum of the same protocol, computed by sorting for one query at a time."""
    of_images, of_texts = instances(len(images))
    directions: list[tuple[Vectors, Vectors, Callable[[int], Mask]]] = [
        (images, texts, lambda query: of_texts == query),
        (texts, images, lambda query: of_images == of_texts[query]),
    ]
    recalls = []
    for queries, gallery, is_right in directions:
        ranks = []
        for number, query in enumerate(queries):
            order = np.argsort(-(gallery @ query))
            ranks.append(np.flatnonzero(is_right(number)[order])[0] + 1)
        recalls += [100 * np.mean(np.array(ranks) <= k) for k in (1, 5, 10)]
    return float(sum(recalls))


def peak_mebibytes() -> float:
    """Return the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--images", type=int, default=5000, help="default: 5000")
    parser.add_argument("--dim", type=int, default=1024, help="numbers in a vector; default: 1024")
    parser.add_argument("--repeats", type=int, default=3, help="default: 3")
    parser.add_argument("--skip-numpy", action="store_true", help="leave out the numpy loop")
    options = parser.parse_args()

    images = unit_vectors(options.images, options.dim, seed=0)
    texts = unit_vectors(CAPTIONS_PER_IMAGE * options.images, options.dim, seed=1)
    of_images, of_texts = instances(len(images))
    before = peak_mebibytes()
    seconds = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        result = evaluate_all(images, texts, of_images, of_texts)
        seconds.append(time.perf_counter() - start)
    peak = peak_mebibytes()

    threads = os.environ.get("OMP_NUM_THREADS") or os.cpu_count()
    table = Table(
        title=f"{len(images):,} images x {len(texts):,} captions x {options.dim} numbers, "
        f"numpy {np.__version__}, {threads} threads"
    )
    for column in ("", "seconds (median)", "min - max", "peak memory, MiB", "rsum"):
        table.add_column(column)
    table.add_row(
        "DualPath",
        f"{statistics.median(seconds):.2f}",
        f"{min(seconds):.2f} - {max(seconds):.2f}",
        f"{peak:.0f} ({before:.0f} before)",
        f"{result.rsum:.3f}",
    )
    if not options.skip_numpy:
        start = time.perf_counter()
        rsum = numpy_loop(images, texts)
        elapsed = time.perf_counter() - start
        table.add_row("numpy loop", f"{elapsed:.2f}", "", "", f"{rsum:.3f}")
    Console(soft_wrap=True).print(table)


if __name__ == "__main__":
    main()
