"""Time and memory of measuring retrieval: 5,000 images x 25,000 captions x 1,024 numbers.

Run in a process of its own, so that the peak memory is that of the measurement (with the
libraries it needs), and beside a straightforward numpy loop over the queries.
"""

import argparse
import resource
import statistics
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from dualpath.evaluation.protocols import evaluate_all

CAPTIONS_PER_IMAGE = 5


def unit_vectors(rows: int, dim: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def numpy_loop(images: np.ndarray, texts: np.ndarray) -> float:
    """Rsum of the same protocol, a query at a time, by sorting."""
    recalls = []
    owners = np.repeat(np.arange(len(images)), CAPTIONS_PER_IMAGE)
    for queries, gallery, right in (
        (images, texts, lambda i: owners == i),
        (texts, images, lambda i: np.arange(len(images)) == owners[i]),
    ):
        ranks = []
        for i, query in enumerate(queries):
            order = np.argsort(-(gallery @ query))
            ranks.append(np.flatnonzero(right(i)[order])[0] + 1)
        recalls += [100 * np.mean(np.array(ranks) <= k) for k in (1, 5, 10)]
    return float(sum(recalls))


def peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--skip-numpy", action="store_true")
    arguments = parser.parse_args()

    images = unit_vectors(arguments.images, arguments.dim, seed=0)
    texts = unit_vectors(CAPTIONS_PER_IMAGE * arguments.images, arguments.dim, seed=1)
    of_images = np.arange(len(images))
    of_texts = np.repeat(of_images, CAPTIONS_PER_IMAGE)
    before = peak_mebibytes()
    seconds = []
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        found = evaluate_all(images, texts, of_images, of_texts)
        seconds.append(time.perf_counter() - start)
    peak = peak_mebibytes()

    table = Table(
        title=f"{len(images):,} x {len(texts):,} x {arguments.dim}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    for column in ("", "seconds (median)", "min - max", "peak memory, MiB", "rsum"):
        table.add_column(column)
    table.add_row(
        "dualpath",
        f"{statistics.median(seconds):.2f}",
        f"{min(seconds):.2f} - {max(seconds):.2f}",
        f"{peak:.0f} ({before:.0f} before)",
        f"{found['rsum']:.3f}",
    )
    if not arguments.skip_numpy:
        start = time.perf_counter()
        rsum = numpy_loop(images, texts)
        took = time.perf_counter() - start
        table.add_row("numpy, a query at a time", f"{took:.2f}", "", "", f"{rsum:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
