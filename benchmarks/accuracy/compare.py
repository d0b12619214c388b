"""DualPath and its peers on the same images, features, words, batches and seconds: one table.

    python benchmarks/accuracy/compare.py --data flickr8k --word-vectors glove.txt \\
        --weights tf_efficientnet_lite0.in1k.safetensors --out accuracy

Every system trains on the kept features of the same frozen backbone, in batches of 128 images
with two of their captions each, its matrix products in bfloat16, for so many seconds of one core
(evaluation not counted), its rate falling along a cosine over them. Each chooses its rate, in a
quarter of the seconds, on a sixth of the training images that is held out for it; the table is of
split val with the last weights, so nothing is fitted to it. Each run leaves a file in --out, and a
second call runs what is missing.
"""

import argparse
import json
import math
import statistics
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from systems import ROWS, Row, System, Task
from torch import Tensor

from dualpath.data.cache import default_cache_folder
from dualpath.data.captions import CaptionTable, FeatureSource, tabulate_captions
from dualpath.data.manifest import read_manifest
from dualpath.data.table import ImageTable, instance_numbers
from dualpath.data.tokenizer import Tokenizer, trim_padding
from dualpath.data.transforms import fixed_views
from dualpath.evaluation.protocols import evaluate_all
from dualpath.models.dual_encoder import build_network
from dualpath.recipes.schema import Recipe, SplitRecipe
from dualpath.training.data import build_vocabulary, gather_data
from dualpath.training.feature_cache import cached_features
from dualpath.utils.memory import tune_malloc

HELD_OUT = 6  # one training image in so many
_TUNED = 4  # of the seconds, one part in so many
BATCH, CAPTIONS = 128, 2
STAGE = {"name": "any", "epochs": 1, "contrastive": {}}


@dataclass(frozen=True)
class Job:
    """One training: a row, its rate and seed; on a part of train to choose the rate, or on all."""

    row: str
    rate: float
    seed: int
    tuning: bool

    @property
    def file(self) -> str:
        kind = "tune" if self.tuning else "run"
        name = "".join(c if c.isalnum() else "-" for c in self.row)
        return f"{kind}-{name}-{self.rate:g}-{self.seed}.json"


@dataclass(frozen=True)
class Data:
    """Captioned images with the kept features of both views."""

    items: ImageTable
    table: CaptionTable
    images: FeatureSource


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--word-vectors", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="of the backbone")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=160, help="of one core, a training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=default_cache_folder())
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for grid in sorted(
        {row.grid for row in ROWS.values()}
    ):  # the features, before several processes ask for them
        _data(_Where.of(options), "train", grid)
        _data(_Where.of(options), "val", grid)
    tuning = [Job(name, rate, 0, True) for name, row in ROWS.items() for rate in row.rates]
    scores = _run(tuning, options)
    best = {
        name: max(row.rates, key=lambda rate: scores[Job(name, rate, 0, True)]["rsum"])
        for name, row in ROWS.items()
    }
    final = [Job(name, best[name], s, False) for s in range(options.seeds) for name in ROWS]
    found = _run(final, options)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    table = Table(
        title=f"{options.data.name}, val, {options.seeds} seeds, {options.seconds:g} s of one core "
        f"each, commit {commit}"
    )
    for column in ("system", "rate", "i→t R@1/5/10", "t→i R@1/5/10", "rsum", "epochs", "M param."):
        table.add_column(column, justify="left" if column == "system" else "right")
    for name in ROWS:
        runs = [found[Job(name, best[name], seed, False)] for seed in range(options.seeds)]
        sums = [run["rsum"] for run in runs]
        spread = f" ± {statistics.stdev(sums):.1f}" if len(sums) > 1 else ""
        table.add_row(
            name,
            f"{best[name]:g}",
            *(
                " / ".join(
                    f"{statistics.mean(run[way][f'recall_at_{k}'] for run in runs):.1f}"
                    for k in (1, 5, 10)
                )
                for way in ("image_to_text", "text_to_image")
            ),
            f"{statistics.mean(sums):.1f}{spread}",
            f"{statistics.mean(run['epochs'] for run in runs):.1f}",
            f"{runs[0]['parameters'] / 1e6:.1f}",
        )
    Console(width=140).print(table)


@dataclass(frozen=True)
class _Where:
    """Where everything lies; hashable, so that a process reads it once."""

    data: Path
    word_vectors: Path
    weights: Path
    backbone: str
    cache: Path
    seconds: float

    @classmethod
    def of(cls, options: argparse.Namespace) -> "_Where":
        return cls(**{name: getattr(options, name) for name in cls.__dataclass_fields__})

    def recipe(self, grid: int) -> Recipe:
        image = {"backbone": self.backbone, "weights": self.weights, "grid": grid}
        text = {"word_vectors": self.word_vectors}
        return Recipe.model_validate(
            {"name": "peers", "image_encoder": image, "text_encoder": text, "stages": [STAGE]}
        )


def _run(jobs: list[Job], options: argparse.Namespace) -> dict[Job, dict[str, Any]]:
    """Run what has no file yet, several at a time, and return the results of all."""
    missing = [job for job in jobs if not (options.out / job.file).exists()]
    with ProcessPoolExecutor(options.processes) as pool:
        futures = [pool.submit(_train, job, _Where.of(options), options.out) for job in missing]
        for future in track(as_completed(futures), "training", len(futures)):
            future.result()
    return {job: json.loads((options.out / job.file).read_text()) for job in jobs}


def _train(job: Job, where: _Where, out: Path) -> None:
    torch.set_num_threads(1)
    tune_malloc()
    row = ROWS[job.row]
    train, held_out = _data(where, "train", row.grid), None
    picked = np.arange(len(train.items))
    if job.tuning:
        chosen = np.random.default_rng(0).permutation(len(train.items)) % HELD_OUT == 0
        picked, held_out = np.flatnonzero(~chosen), np.flatnonzero(chosen)
    torch.manual_seed(job.seed)
    tokenizer, words = _words(where)
    features = train.images.features[0].shape[1] // row.grid**2
    system = row.build(Task(words, len(train.items), features, row.grid**2))
    begun = time.process_time()
    budget = where.seconds / _TUNED if job.tuning else where.seconds
    epochs = _fit(system, row, job, train, picked, budget, tokenizer.num_embeddings - 1)
    seconds = time.process_time() - begun
    judged = _data(where, "val", row.grid) if held_out is None else train
    metrics = _measure(system, row, judged, held_out)
    parameters = sum(p.numel() for p in [*system.images.parameters(), *system.texts.parameters()])
    told = {**metrics, "epochs": epochs, "seconds": seconds, "parameters": parameters}
    (out / job.file).write_text(json.dumps(told, indent=1))


def _fit(
    system: System,
    row: Row,
    job: Job,
    data: Data,
    picked: np.ndarray,
    seconds: float,
    unknown: int,
) -> float:
    """Train for so many seconds of this process and return the number of epochs done."""
    sparse = system.sparse_parameters()
    dense = [p for p in system.parameters() if all(p is not other for other in sparse)]
    matrices, vectors = [p for p in dense if p.ndim > 1], [p for p in dense if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0}]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=job.rate, fused=True)]
    if sparse:
        optimizers.append(torch.optim.SparseAdam(sparse, lr=job.rate))
    system.train()
    steps, per_epoch = 0, len(picked) // BATCH
    begun = time.process_time()
    while True:
        order = np.random.default_rng((job.seed, steps)).permutation(picked)
        for start in range(0, per_epoch * BATCH, BATCH):
            share = (time.process_time() - begun) / seconds
            if share >= 1:
                return round(steps / per_epoch, 1)
            rate = job.rate * min(1, share / 0.03 + 1e-3) * 0.5 * (1 + math.cos(math.pi * share))
            for group in (group for one in optimizers for group in one.param_groups):
                group["lr"] = rate
            images = order[start : start + BATCH]
            draw = np.random.default_rng((job.seed, steps))
            captions = [draw.permutation(data.table.captions_of(i))[:CAPTIONS] for i in images]
            token_ids = _tokens(data, np.concatenate(captions))
            if row.word_dropout:
                dropped = torch.rand(token_ids.shape) < row.word_dropout
                token_ids = token_ids.masked_fill(dropped & (token_ids != 0), unknown)
            owners = np.repeat(np.arange(BATCH), [len(c) for c in captions])
            seen = data.images.draw(images, int(draw.integers(2**31)), slice(0, BATCH))
            with torch.autocast("cpu", torch.bfloat16):
                images, texts = system.images(_cells(seen, row)), system.texts(token_ids)
            loss = system.loss(
                images.float(),
                texts.float(),
                torch.from_numpy(owners),
                torch.from_numpy(data.table.instance_ids[images]),
            )
            system.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(dense, 2.0)
            for optimizer in optimizers:
                optimizer.step()
            steps += 1


@torch.no_grad()
def _measure(system: System, row: Row, data: Data, picked: np.ndarray | None) -> dict[str, Any]:
    """Measure retrieval; an image is the mean of its two views."""
    system.eval()
    picked = np.arange(len(data.items)) if picked is None else picked
    views = []
    for kept, rows in zip(data.images.features, data.images.rows, strict=True):
        parts = np.array_split(picked, math.ceil(len(picked) / 200))
        seen = [_cells(torch.from_numpy(kept[rows[part]]), row) for part in parts]
        views.append(torch.cat([F.normalize(system.images(part)) for part in seen]))
    images = F.normalize(torch.stack(views).sum(dim=0))
    captions = np.concatenate([data.table.captions_of(i) for i in picked])
    parts = np.array_split(captions, math.ceil(len(captions) / 500))
    texts = torch.cat([F.normalize(system.texts(_tokens(data, part))) for part in parts])
    items = data.items.take(picked)
    return evaluate_all(images.numpy(), texts.numpy(), *instance_numbers(items))


def _tokens(data: Data, captions: np.ndarray) -> Tensor:
    return torch.from_numpy(trim_padding(data.table.token_ids[captions]).astype(np.int64))


def _cells(features: Tensor, row: Row) -> Tensor:
    """Return kept features as (batch, cells, channels)."""
    return features.view(len(features), -1, row.grid**2).transpose(1, 2)


@cache
def _data(where: _Where, split: str, grid: int) -> Data:
    manifest = read_manifest(where.data, SplitRecipe(), 0, where.cache)
    gathered = gather_data(manifest, where.cache, skip_broken=False, say=print)
    items = gathered.train if split == "train" else gathered.val
    network = build_network(where.recipe(grid), 2, load_backbone=True)
    kept = cached_features(
        network.image_encoder,
        items.paths,
        gathered.train_hashes if split == "train" else gathered.val_hashes,
        fixed_views(flip=True, crops=0),
        224,
        where.cache,
        workers=2,
    )
    return Data(items, tabulate_captions(items, _words(where)[0], where.cache), kept)


@cache
def _words(where: _Where) -> tuple[Tokenizer, Tensor]:
    """Return the words of the training captions and their vectors, NaN where there is none."""
    manifest = read_manifest(where.data, SplitRecipe(), 0, where.cache)
    gathered = gather_data(manifest, where.cache, skip_broken=False, say=print)
    words = build_vocabulary(where.recipe(1), gathered.train, print)
    assert words.vectors is not None
    return words.tokenizer, words.vectors


if __name__ == "__main__":
    main()
