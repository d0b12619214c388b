"""Measure the memory that the data of a training takes, for ten thousand to a million images.

    python benchmarks/memory.py --rows 10000 100000 1000000 --folder scratch

Writes WebDataset shards of small images with five random captions each. Then a process of its own
for each size does with the data what a training does: it reads the manifest, checks every image,
counts words, encodes captions, caches features and draws batches. The features are random.

Prints the process's own memory after each step, and how many bytes an image adds. Memory-mapped
files are listed apart, because the system can reclaim their memory.
"""

import argparse
import io
import json
import resource
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from common import command_line
from dualpath.data.captions import tabulate_captions
from dualpath.data.manifest import read_manifest
from dualpath.data.tokenizer import Tokenizer, count_words, modern_vocabulary
from dualpath.data.vector_store import VectorStore
from dualpath.training.batches import FeatureSource, PairDataset
from dualpath.training.data import gather_data
from dualpath.training.sampler import EpochSampler

IMAGES_PER_SHARD = 100_000
CAPTIONS, WORDS, DIM, BATCHES = 5, 20_000, 64, 500

Usage = dict[str, float]  # seconds of a step; MiB after it: own, and mapped from files


def write_shards(folder: Path, rows: int) -> None:
    """Write shards of different 8 x 8 PNG files, with a text file each."""
    generator = np.random.default_rng(0)
    for start in range(0, rows, IMAGES_PER_SHARD):
        partial = folder / f"train-{start // IMAGES_PER_SHARD:04d}.partial"
        with tarfile.open(partial, "w") as archive:
            for number in range(start, min(start + IMAGES_PER_SHARD, rows)):
                image, captions = draw_sample(generator)
                for suffix, content in (("png", image), ("txt", captions)):
                    member = tarfile.TarInfo(f"{number:08d}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        partial.replace(partial.with_suffix(".tar"))


def draw_sample(generator: np.random.Generator) -> tuple[bytes, bytes]:
    """Return the bytes of an image and of its captions, one a line."""
    buffer = io.BytesIO()
    pixels = generator.integers(256, size=(8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    words = generator.zipf(1.3, size=(CAPTIONS, 12)) % WORDS
    lines = [" ".join(f"w{word}" for word in line) for line in words]
    return buffer.getvalue(), "\n".join(lines).encode()


class Recorder:
    """Records time and memory after each step."""

    def __init__(self) -> None:
        self.usage: dict[str, Usage] = {}
        self._begin = time.perf_counter()

    def record(self, step: str) -> None:
        now = time.perf_counter()
        lines = Path("/proc/self/status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines)
        own, mapped = (int(status[key].split()[0]) / 1024 for key in ("RssAnon", "RssFile"))
        self.usage[step] = {"seconds": now - self._begin, "own": own, "mapped": mapped}
        self._begin = now


def measure(folder: Path, cache: Path) -> dict[str, Usage]:
    """Do with the data what a training does; return time and memory of each step."""
    recorder = Recorder()
    recorder.record("start: Python, torch, timm")
    manifest = read_manifest(folder, cache=cache)
    recorder.record("reading the manifest")
    data = gather_data(manifest, cache, skip_broken=False, log=lambda _: None)
    recorder.record("checking every image")
    words = modern_vocabulary(count_words(data.train.captions, "modern"), 2)
    table = tabulate_captions(data.train, Tokenizer(words, "modern", 32), cache)
    recorder.record("counting words, encoding captions")
    store = VectorStore(cache / "features", DIM)
    generator = np.random.default_rng(0)
    missing = store.first_missing(data.train_hashes)
    for start in range(0, len(missing), 4096):
        hashes = data.train_hashes[missing[start : start + 4096]]
        store.add(hashes, generator.standard_normal((len(hashes), DIM), np.float32))
    features = FeatureSource([store.vectors()], [store.rows(data.train_hashes)])
    recorder.record("caching features")
    sampler = EpochSampler(table, batch_size=128, captions_per_image=2, seed=(0, 0, 0))
    loader = DataLoader(PairDataset(table, features), sampler=sampler, batch_size=None)
    for number, _ in enumerate(loader):
        if number == BATCHES:
            break
    recorder.record(f"drawing {BATCHES} batches")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**recorder.usage, "peak": {"own": peak}}


def run_measurement(folder: Path, rows: int) -> dict[str, Usage]:
    """Measure one size in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("*.tar")):
        write_shards(folder, rows)
    command = [sys.executable, __file__, "--folder", str(folder), "--one", str(folder)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    usage: dict[str, Usage] = json.loads(output.splitlines()[-1])
    return usage


def as_table(results: Mapping[int, Mapping[str, Usage]]) -> Table:
    """Show memory after each step for each size, and the bytes that an image adds."""
    table = Table(title="own memory in MiB (memory-mapped files), seconds of the step")
    table.add_column("after")
    for rows in results:
        table.add_column(f"{rows:,} images", justify="right")
    table.add_column("bytes per image", justify="right")
    least, most = min(results), max(results)
    for step in results[least]:
        cells = [_cell(usage[step]) for usage in results.values()]
        growth = results[most][step]["own"] - results[least][step]["own"]
        per_image = f"{growth * 2**20 / (most - least):,.0f}" if most > least else ""
        table.add_row(step, *cells, per_image)
    return table


def _cell(usage: Usage) -> str:
    if "mapped" not in usage:
        return f"{usage['own']:,.0f}"
    return f"{usage['own']:,.0f} ({usage['mapped']:,.0f}), {usage['seconds']:,.0f} s"


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument(
        "--rows",
        type=int,
        nargs="+",
        default=[10_000, 100_000, 1_000_000],
        help="numbers of images; default: 10000 100000 1000000",
    )
    parser.add_argument(
        "--folder", type=Path, required=True, help="for the shards and caches; 3 KB per image"
    )
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.one / "cache")))
        return
    results = {}
    for rows in options.rows:
        results[rows] = run_measurement(options.folder / str(rows), rows)
        print(f"{rows:,} images: measured", flush=True)
    Console(width=150).print(as_table(results))


if __name__ == "__main__":
    main()
