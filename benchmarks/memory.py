"""How much memory the data of a training takes, at ten thousand and at a million images.

    python benchmarks/memory.py --rows 10000 100000 1000000 --folder scratch

Writes WebDataset shards of small images with five made-up captions each, and in a process of its
own for each size does what training does before and around the network: read the manifest, look at
every image, count words, encode captions, map kept features, draw batches. Features are random.
What grows with the set is told in bytes an image, apart from files that are mapped (the system
takes their memory back when it is needed).
"""

import argparse
import io
import json
import resource
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from dualpath.data.captions import EpochPlan, FeatureSource, PairDataset, tabulate_captions
from dualpath.data.manifest import read_manifest
from dualpath.data.tokenizer import Tokenizer, count_words, modern_vocabulary
from dualpath.data.vector_store import VectorStore
from dualpath.training.data import gather_data

SHARD = 100_000
CAPTIONS, WORDS, DIM = 5, 20_000, 64


def write_shards(folder: Path, rows: int) -> None:
    """Write shards of 8 x 8 PNG files, all different, with a text file each."""
    generator = np.random.default_rng(0)
    for start in range(0, rows, SHARD):
        partial = folder / f"train-{start // SHARD:04d}.partial"
        with tarfile.open(partial, "w") as archive:
            for number in range(start, min(start + SHARD, rows)):
                buffer = io.BytesIO()
                pixels = generator.integers(256, size=(8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(buffer, "PNG")
                words = generator.zipf(1.3, size=(CAPTIONS, 12)) % WORDS
                lines = [" ".join(f"w{word}" for word in line) for line in words]
                for suffix, content in (
                    ("png", buffer.getvalue()),
                    ("txt", "\n".join(lines).encode()),
                ):
                    member = tarfile.TarInfo(f"{number:08d}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        partial.replace(partial.with_suffix(".tar"))


def measure(folder: Path, cache: Path) -> dict[str, dict[str, float]]:
    """Do what training does with data; return seconds and MiB after each step."""
    told: dict[str, dict[str, float]] = {}
    begun = time.perf_counter()

    def done(step: str) -> None:
        nonlocal begun
        now = time.perf_counter()
        status = dict(
            line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()
        )
        own, mapped = (int(status[k].split()[0]) / 1024 for k in ("RssAnon", "RssFile"))
        told[step] = {"seconds": now - begun, "own": own, "mapped": mapped}
        begun = now

    done("start")
    manifest = read_manifest(folder, cache=cache)
    done("read the manifest")
    data = gather_data(manifest, cache, skip_broken=False, say=lambda _: None)
    done("look at every image")
    tokenizer = Tokenizer(
        modern_vocabulary(count_words(data.train.captions, "modern"), 2), "modern", 32
    )
    table = tabulate_captions(data.train, tokenizer, cache)
    done("count and encode words")
    store = VectorStore(cache / "features", DIM)
    generator = np.random.default_rng(0)
    missing = store.first_missing(data.train_hashes)
    for start in range(0, len(missing), 4096):
        names = data.train_hashes[missing[start : start + 4096]]
        store.add(names, generator.standard_normal((len(names), DIM), np.float32))
    features = FeatureSource([store.vectors()], [store.rows(data.train_hashes)])
    done("keep features")
    plan = EpochPlan(table, batch_size=128, captions_per_image=2, seed=(0, 0, 0))
    for number, _ in enumerate(
        DataLoader(PairDataset(table, features), sampler=plan, batch_size=None)
    ):
        if number == 500:
            break
    done("draw 500 batches")
    told["peak"] = {"own": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    return told


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, required=True, help="scratch space, 3 KB an image")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.one / "cache")))
        return
    found = {}
    for rows in options.rows:
        folder = options.folder / str(rows)
        folder.mkdir(parents=True, exist_ok=True)
        if not list(folder.glob("*.tar")):
            write_shards(folder, rows)
        command = [sys.executable, __file__, "--folder", str(folder), "--one", str(folder)]
        output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        found[rows] = json.loads(output.splitlines()[-1])
        print(f"{rows:,}: {found[rows]}", flush=True)
    Console(width=150).print(as_table(found))


def as_table(found: dict[int, dict[str, dict[str, float]]]) -> Table:
    """Memory after each step for each size, and what an image adds from smallest to largest."""
    table = Table(title="MiB of the process's own memory (and mapped from files); seconds")
    table.add_column("after")
    for rows in found:
        table.add_column(f"{rows:,} images")
    table.add_column("bytes an image")
    least, most = min(found), max(found)
    for step in found[least]:
        row = [found[rows][step] for rows in found]
        grown = (found[most][step]["own"] - found[least][step]["own"]) * 2**20 / (most - least)
        cells = [
            f"{told['own']:,.0f}"
            + (f" ({told['mapped']:,.0f}), {told['seconds']:,.0f} s" if "mapped" in told else "")
            for told in row
        ]
        table.add_row(step, *cells, f"{grown:,.0f}")
    return table


if __name__ == "__main__":
    main()
