"""Compare DualPath with its peers on the same images, features, words, batches and seconds.

    python benchmarks/accuracy/compare.py --data flickr8k --word-vectors glove.txt \\
        --weights tf_efficientnet_lite0.in1k.safetensors --out accuracy

Every system trains on cached features of the same frozen backbone, in batches of 128 images with
two captions each, with matrix products in bfloat16. It trains for --seconds seconds of one core,
without evaluation. The learning rate follows a cosine over these seconds.

Each system chooses its learning rate in a quarter of the seconds, on a sixth of the training images
that is held out for this choice. The table is measured on the validation split with the weights of
the last step, so nothing is fitted to this split. Finished runs are stored in --out; a second call
continues from them.
"""

import argparse
import json
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fitting import Budget, fit, measure
from peer_data import Inputs, load_split, load_words, sample_rows
from peer_encoders import Task
from rich.console import Console
from rich.progress import track
from rich.table import Table
from systems import ROWS

from dualpath.data.cache import default_cache_folder
from dualpath.utils.memory import tune_malloc

sys.path.append(str(Path(__file__).parents[1]))
from common import command_line, commit

HELD_OUT = 6  # one training image in this many is held out for the choice of the learning rate
TUNING_SHARE = 1 / 4  # of the seconds
COLUMNS = ("system", "lr", "i→t R@1/5/10", "t→i R@1/5/10", "rsum", "epochs", "M parameters")

Result = dict[str, Any]  # metrics, epochs, seconds, parameters


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        row: name of the row. lr: learning rate. seed: of weights and batches.
        tuning: train on a part of the training images, to choose the learning rate.
    """

    row: str
    lr: float
    seed: int
    tuning: bool

    @property
    def file(self) -> str:
        kind = "tune" if self.tuning else "run"
        name = "".join(c if c.isalnum() else "-" for c in self.row)
        return f"{kind}-{name}-{self.lr:g}-{self.seed}.json"


def run_jobs(jobs: list[Job], options: argparse.Namespace) -> dict[Job, Result]:
    """Run the jobs whose result is not stored, several at a time; return all results."""
    missing = [job for job in jobs if not (options.out / job.file).exists()]
    inputs = Inputs.from_options(options)
    with ProcessPoolExecutor(options.processes) as pool:
        futures = [pool.submit(run_job, job, inputs, options.out) for job in missing]
        for future in track(as_completed(futures), "training", len(futures)):
            future.result()
    return {job: json.loads((options.out / job.file).read_text()) for job in jobs}


def run_job(job: Job, inputs: Inputs, out: Path) -> None:
    """Train and measure one system, and store the result."""
    torch.set_num_threads(1)
    tune_malloc()
    row = ROWS[job.row]
    train = load_split(inputs, "train", row.grid)
    words = load_words(inputs)
    torch.manual_seed(job.seed)
    features = train.source.features[0].shape[1] // row.grid**2
    system = row.build(Task(words.vectors, len(train.images), features, row.grid**2))
    if job.tuning:
        picked, measured = sample_rows(len(train.images), HELD_OUT)
        measured_split, seconds = train, TUNING_SHARE * inputs.seconds
    else:
        measured_split, seconds = load_split(inputs, "val", row.grid), inputs.seconds
        picked, measured = np.arange(len(train.images)), np.arange(len(measured_split.images))
    start = time.process_time()
    budget = Budget(seconds, job.lr, job.seed)
    epochs = fit(system, row, train, picked, budget, words.tokenizer.num_embeddings - 1)
    result = {
        **measure(system, row, measured_split, measured),
        "epochs": epochs,
        "seconds": time.process_time() - start,
        "parameters": sum(
            parameter.numel()
            for encoder in (system.image_encoder, system.text_encoder)
            for parameter in encoder.parameters()
        ),
    }
    (out / job.file).write_text(json.dumps(result, indent=1))


def choose_learning_rates(names: list[str], options: argparse.Namespace) -> dict[str, float]:
    """Return for each row the learning rate with the highest rsum on the held-out images."""
    jobs = {(name, lr): Job(name, lr, 0, tuning=True) for name in names for lr in ROWS[name].lrs}
    results = run_jobs(list(jobs.values()), options)
    return {
        name: max(ROWS[name].lrs, key=lambda lr, name=name: results[jobs[name, lr]]["rsum"])  # type: ignore[misc]
        for name in names
    }


def table_row(name: str, lr: float, runs: list[Result]) -> list[str]:
    rsums = [run["rsum"] for run in runs]
    deviation = f" ± {statistics.stdev(rsums):.1f}" if len(rsums) > 1 else ""
    recalls = [
        " / ".join(
            f"{statistics.mean(run[direction][f'recall_at_{k}'] for run in runs):.1f}"
            for k in (1, 5, 10)
        )
        for direction in ("image_to_text", "text_to_image")
    ]
    return [
        name,
        f"{lr:g}",
        *recalls,
        f"{statistics.mean(rsums):.1f}{deviation}",
        f"{statistics.mean(run['epochs'] for run in runs):.1f}",
        f"{runs[0]['parameters'] / 1e6:.1f}",
    ]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with a manifest")
    parser.add_argument("--word-vectors", type=Path, required=True, help="in GloVe's format")
    parser.add_argument("--weights", type=Path, required=True, help="weights of the backbone")
    parser.add_argument(
        "--backbone", default="tf_efficientnet_lite0", help="default: tf_efficientnet_lite0"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished runs")
    parser.add_argument(
        "--seconds", type=float, default=160, help="of one core, per training; default: 160"
    )
    parser.add_argument("--seeds", type=int, default=3, help="of each row; default: 3")
    parser.add_argument("--processes", type=int, default=2, help="trainings at a time; default: 2")
    parser.add_argument("--only", nargs="+", default=[], help="rows, by the start of their names")
    parser.add_argument(
        "--cache",
        type=Path,
        default=default_cache_folder(),
        help="for features; default: the user's",
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    names = [name for name in ROWS if name.startswith(tuple(options.only or [""]))]
    if not names:
        parser.error("--only: choose among " + "; ".join(ROWS))
    inputs = Inputs.from_options(options)
    for grid in sorted({ROWS[name].grid for name in names}):  # before several processes need them
        load_split(inputs, "train", grid)
        load_split(inputs, "val", grid)
    lrs = choose_learning_rates(names, options)
    seeds = range(options.seeds)
    jobs = {(name, seed): Job(name, lrs[name], seed, False) for seed in seeds for name in names}
    results = run_jobs(list(jobs.values()), options)
    table = Table(
        title=f"{options.data.name}, val, {options.seeds} seeds, {options.seconds:g} s of one core "
        f"each, commit {commit()}"
    )
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "system" else "right")
    for name in names:
        table.add_row(*table_row(name, lrs[name], [results[jobs[name, s]] for s in seeds]))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
