"""Measure what DualPath spends its time on, each part compared with the hardware or with a peer.

    pip install 'dualpath[export]' open_clip_torch
    python benchmarks/speed/suite.py --data flickr8k --bundles model resnet50 --out speed.json
    python benchmarks/speed/suite.py --data flickr8k --bundles model --out speed.json \\
        --only evaluation sentences

Prints one table. Each row compares one call of DualPath with another call; the two take turns in
one process with one thread each (images are decoded on another core). A ratio above 1 means that
DualPath is faster. Nothing else should run on the machine.

The image encoders of the bundles are measured in every runtime. The first bundle fills a gallery.
"""

import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "passive"
sys.path.append(str(Path(__file__).parents[1]))

import torch
from classes import class_rows
from embedding import image_rows, runtime_rows
from material import Material
from retrieval import evaluation_rows, gallery_rows
from rich.console import Console
from rich.table import Table
from sentences import sentence_rows, sentence_runtime_rows
from timing import Row

from common import command_line, commit
from dualpath.utils.memory import tune_malloc
from training import training_rows

PACKAGES = ("torch", "timm", "onnxruntime", "openvino", "nncf", "open_clip_torch", "pylance")
PARTS = (
    "training",
    "images",
    "runtimes",
    "queries",
    "sentences",
    "evaluation",
    "gallery",
    "classes",
)
COLUMNS = ("measured", "ms", "compared with", "ms", "ratio", "spread", "target", "")


def describe_machine() -> dict[str, str]:
    """Return the hardware and the versions that are measured."""
    cpu = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    machine = {"cpu": cpu, "cores": str(os.cpu_count()), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            machine[package] = version(package)
        except PackageNotFoundError:
            machine[package] = "not installed"
    return {**machine, "commit": commit()}


def as_table(rows: list[Row], machine: dict[str, str]) -> Table:
    """Show the rows for a terminal."""
    table = Table(title=", ".join(f"{name} {value}" for name, value in machine.items()))
    for column in COLUMNS:
        table.add_column(column)
    for row in rows:
        table.add_row(
            row.measured,
            f"{1000 * row.own_seconds:,.1f}",
            row.compared_with,
            f"{1000 * row.other_seconds:,.1f}",
            f"{row.ratio:.2f}",
            f"{row.spread[0]:.2f} to {row.spread[1]:.2f}",
            f"{row.target:.2f}" if row.target else "",
            row.note,
        )
    return table


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with a manifest; images are copied"
    )
    parser.add_argument(
        "--bundles", type=Path, nargs="+", required=True, help="folders of trained models"
    )
    parser.add_argument("--images", type=int, default=256, help="copies of images; default: 256")
    parser.add_argument(
        "--classes", type=int, default=1_000_000, help="of the instance loss; default: 1000000"
    )
    parser.add_argument(
        "--evaluated", type=int, default=5000, help="images of the evaluation; default: 5000"
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file of all rows")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure; default: all"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    tune_malloc()
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        material = Material(options.data, folder / "images", options.images)
        parts: dict[str, Callable[[], Iterator[Row]]] = {
            "training": lambda: training_rows(material),
            "images": lambda: image_rows(material),
            "runtimes": lambda: runtime_rows(material, options.bundles),
            "queries": lambda: sentence_runtime_rows(material, options.bundles),
            "sentences": lambda: sentence_rows(material),
            "evaluation": lambda: evaluation_rows(options.evaluated),
            "gallery": lambda: gallery_rows(material, options.bundles[0], folder),
            "classes": lambda: class_rows(options.classes),
        }
        rows = []
        for name in options.only:
            for row in parts[name]():
                rows.append(row)
                print(f"{row.measured} | {row.compared_with}: {row.ratio:.2f}", flush=True)
                result = {"machine": machine, "rows": [asdict(row) for row in rows]}
                options.out.write_text(json.dumps(result, indent=1) + "\n")
    Console(width=170).print(as_table(rows, machine))


if __name__ == "__main__":
    main()
