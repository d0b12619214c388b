"""What the system spends its time on, each beside what the hardware allows or what a peer takes.

    pip install 'dualpath[export]' open_clip_torch
    python benchmarks/speed/suite.py --data flickr8k --bundles model resnet50 --out speed.json

One table: the time of one call of ours and of what stands beside it, in turns within one process,
one thread each (decoding has another core). A ratio above 1 says that ours is faster. Needs a
folder of captioned images, which are copied to 500 x 375, and trained bundles: their image paths
are run in every runtime, and the first fills a gallery. Nothing else should run on the machine.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "passive"

import torch
from classes import class_rows
from embedding import image_rows, runtime_rows, sentence_runtime_rows, text_rows
from material import Material
from retrieval import evaluation_rows, gallery_rows
from rich.console import Console
from rich.table import Table
from timing import Row

from dualpath.utils.memory import tune_malloc
from training import training_rows

PACKAGES = ("torch", "timm", "onnxruntime", "openvino", "nncf", "open_clip_torch", "lancedb")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="captioned images")
    parser.add_argument("--bundles", type=Path, nargs="+", required=True)
    parser.add_argument("--classes", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, required=True, help="JSON of all rows")
    parser.add_argument("--only", nargs="*", default=[], help="parts, such as training runtimes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tune_malloc()
    with tempfile.TemporaryDirectory() as scratch:
        material = Material(options.data, Path(scratch) / "images")
        parts: dict[str, Callable[[], Iterator[Row]]] = {
            "training": lambda: training_rows(material),
            "images": lambda: image_rows(material),
            "runtimes": lambda: runtime_rows(material, options.bundles),
            "questions": lambda: sentence_runtime_rows(material, options.bundles),
            "sentences": lambda: text_rows(material),
            "evaluation": evaluation_rows,
            "gallery": lambda: gallery_rows(material, options.bundles[0], Path(scratch)),
            "classes": lambda: class_rows(options.classes),
        }
        rows = []
        for name in options.only or parts:
            for row in parts[name]():
                rows.append(row)
                print(f"{row.part}: {row.what} | {row.beside}: {row.ratio:.2f}", flush=True)
                told = {"machine": machine(), "rows": [asdict(row) for row in rows]}
                options.out.write_text(json.dumps(told, indent=1) + "\n")
    Console(width=170).print(table(rows))


def machine() -> dict[str, str]:
    """What the numbers were measured on and with."""
    cpu = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    found = {"cpu": cpu, "cores": str(os.cpu_count()), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return {**found, "commit": commit}


def table(rows: list[Row]) -> Table:
    """The rows for a terminal."""
    told = machine()
    shown = Table(title=", ".join(f"{name} {value}" for name, value in told.items()))
    for column in ("what", "ms", "beside", "ms", "ratio", "spread", "asked", ""):
        shown.add_column(column)
    for row in rows:
        shown.add_row(
            row.what,
            f"{1000 * row.own:,.1f}",
            row.beside,
            f"{1000 * row.other:,.1f}",
            f"{row.ratio:.2f}",
            f"{row.spread[0]:.2f}-{row.spread[1]:.2f}",
            f"{row.asked:.2f}" if row.asked else "",
            row.note,
        )
    return shown


if __name__ == "__main__":
    main()
