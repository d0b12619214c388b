"""Ablations of the paper's claims on a folder of captioned images, in one table.

    python benchmarks/ablations.py --data flickr8k --word-vectors glove.txt \\
        --weights tf_efficientnet_lite0.in1k.safetensors --out ablations

Every setting trains the same small network for the same number of steps on the features of a
frozen backbone. Settings that differ in their losses get the best of the same learning rates,
found on a sixth of the training images that is held out for it; the others share the rate of
"both losses". The table is measured on split val with the last weights, so nothing is fitted to
it. Each run leaves a small file in --out, and a second call runs what is missing.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RATES = (1e-3, 3e-3, 9e-3)
TUNED_BELOW = 6  # one training instance in so many is held out while rates are compared

INSTANCE = {"instance": {"scale": 16, "dropout": 0.2}}
HARDEST = {"ranking": {"margin": 0.2, "negatives": "hardest"}}
RANDOM = {"ranking": {"margin": 1.0, "negatives": "random"}}
EPOCHS = 10
EPOCHS_TWO = 3  # of Stage II, the whole network trained


@dataclass(frozen=True)
class Setting:
    """A row of the table.

    ``stages``: epochs and keys of each, where ``slower`` divides its rate; ``changes``: other keys
    of the recipe; ``rate_of``: whose rate it has (none: its own, tuned).
    """

    group: str
    name: str
    stages: tuple[tuple[int, dict[str, Any]], ...]
    changes: dict[str, Any] = field(default_factory=dict)
    rate_of: str | None = None


def _settings() -> list[Setting]:
    both = ((EPOCHS, {**INSTANCE, **HARDEST}),)
    alone = ((EPOCHS, INSTANCE),)
    half = EPOCHS // 2
    losses = [
        Setting("losses", "instance alone", alone),
        Setting("losses", "ranking alone, hardest of the batch", ((EPOCHS, HARDEST),)),
        Setting("losses", "ranking alone, one at random", ((EPOCHS, RANDOM),)),
        Setting("losses", "both losses", both),
        Setting("losses", "instance, then both", ((half, INSTANCE), (half, both[0][1]))),
        Setting("losses", "instance, then ranking", ((half, INSTANCE), (half, HARDEST))),
    ]
    small = {"image_encoder": {"input_size": 112}}
    whole = {
        "backbone": "trained_running_norm",
        "slower": 20,
        "optimizer": {"rates": {"image_backbone": 0.3}},
    }
    both_two = (EPOCHS_TWO, {**both[0][1], **whole})
    stages = [
        Setting("stages (112 pixels)", "Stage I", ((EPOCHS + EPOCHS_TWO, both[0][1]),), small),
        Setting("stages (112 pixels)", "Stage I, then II", (*both, both_two), small),
    ]
    unmasked = {"text_encoder": {"padding": "unmasked"}}
    left = {"text_encoder": {"padding": "unmasked", "position_shift": False}}
    like_both = {"stages": both, "rate_of": "both losses"}
    like_alone = {"stages": alone, "rate_of": "instance alone"}
    return [
        *losses,
        *stages,
        Setting("padding and place", "unmasked, position shift", changes=unmasked, **like_both),
        Setting("padding and place", "unmasked, left-aligned", changes=left, **like_both),
        Setting(
            "padding and place",
            "masked, left-aligned",
            changes={"text_encoder": {"position_shift": False}},
            **like_both,
        ),
        Setting(
            "word vectors",
            "random",
            changes={"text_encoder": {"word_vectors": None, "embedding_dim": 100}},
            **like_both,
        ),
        Setting("pooling", "mean", changes={"text_encoder": {"pooling": "mean"}}, **like_both),
        *(
            Setting(
                "classes (instance alone)",
                f"{k:,} k-means clusters",
                changes={"classifier": {"clusters": k}},
                **like_alone,
            )
            for k in (300, 1000, 3000)
        ),
        Setting(
            "classifier",
            "separate, instance alone",
            changes={"classifier": {"shared": False}},
            **like_alone,
        ),
        Setting(
            "classifier",
            "separate, both losses",
            changes={"classifier": {"shared": False}},
            **like_both,
        ),
    ]


def _recipe(setting: Setting, rate: float, seed: int, options: argparse.Namespace) -> Any:
    from dualpath.recipes.schema import Recipe

    text = {
        "width": 0.125,
        "depths": (1, 1, 1, 1),
        "max_words": 24,
        "word_vectors": str(options.word_vectors),
        **setting.changes.get("text_encoder", {}),
    }
    stages = [
        _stage(f"stage-{number}", epochs, rate, **keys)
        for number, (epochs, keys) in enumerate(setting.stages, start=1)
    ]
    return Recipe.model_validate(
        {
            "name": "ablation",
            "seed": seed,
            "dim": 256,
            "keep": "last",
            "workers": 0,
            "image_encoder": {
                "backbone": options.backbone,
                "weights": str(options.weights),
                **setting.changes.get("image_encoder", {}),
            },
            "text_encoder": text,
            "classifier": setting.changes.get("classifier", {}),
            "stages": stages,
        }
    )


def _stage(
    name: str,
    epochs: int,
    rate: float,
    *,
    slower: float = 1,
    optimizer: dict[str, Any] | None = None,
    **keys: Any,
) -> dict[str, Any]:
    return {
        "name": name,
        "epochs": epochs,
        "batch_size": 64,
        "backbone": "frozen",
        "optimizer": {"lr": rate / slower, "weight_decay": 0.05, **(optimizer or {})},
        "schedule": {"warmup": 0.05, "decay": "cosine"},
        "validate_every": epochs,
        **keys,
    }


def _run(
    setting: Setting, rate: float, seed: int, data: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Train one setting once, or read what it gave before."""
    place = f"{setting.group}-{setting.name}-{EPOCHS}-{rate:g}-{seed}-{data.name}"
    place = "".join(c if c.isalnum() or c in ".-" else "_" for c in place)
    kept = options.out / f"{place}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    import torch

    from dualpath.training.train import train
    from dualpath.utils.progress import Display

    torch.set_num_threads(1)
    begun, work = time.perf_counter(), options.out / place
    model = train(
        _recipe(setting, rate, seed, options),
        data,
        work,
        resume=(work / "training" / "last.pt").exists(),
        cache=options.cache,
        display=Display(Console(quiet=True)),
    )
    result = {**model.metrics["validation"], "seconds": time.perf_counter() - begun}
    kept.write_text(json.dumps(result, indent=1))
    shutil.rmtree(work)
    return result


def _held_out(data: Path, out: Path) -> Path:
    """Write a manifest of the training images alone, a part of them as val."""
    from dualpath.data.manifest import read_manifest, write_manifest

    folder = out / "tuning"
    folder.mkdir(parents=True, exist_ok=True)
    items = read_manifest(data).split("train").items
    numbers = {name: i for i, name in enumerate(sorted({item.instance for item in items}))}
    rows = [
        {
            "file_name": str(item.path.resolve()),
            "captions": item.captions,
            "instance": item.instance,
            "split": "train" if numbers[item.instance] % TUNED_BELOW else "val",
        }
        for item in items
    ]
    write_manifest(folder, rows)
    return folder


def _jobs(
    settings: list[Setting], rates: dict[str, float], seeds: int
) -> Iterator[tuple[Setting, float, int]]:
    for seed in range(seeds):
        for setting in settings:
            yield setting, rates[setting.rate_of or setting.name], seed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with a manifest")
    parser.add_argument("--weights", type=Path, required=True, help="of the backbone")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--word-vectors", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--seeds", type=int, default=3, help="of each row")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    console, settings = Console(soft_wrap=True), _settings()
    tuning = _held_out(options.data, options.out)
    with ProcessPoolExecutor(options.jobs) as pool:
        tuned = [s for s in settings if s.rate_of is None]
        trials = {
            (s.name, rate): pool.submit(_run, s, rate, 0, tuning, options)
            for s in tuned
            for rate in RATES
        }
        scores = {key: trial.result()["rsum"] for key, trial in trials.items()}
        rates = {s.name: max(RATES, key=lambda r, n=s.name: scores[n, r]) for s in tuned}
        for s in tuned:
            tried = ", ".join(f"{r:g}: {scores[s.name, r]:.1f}" for r in RATES)
            console.print(f"rate of {s.name}: {rates[s.name]:g} (held-out rsum {tried})")
        jobs = list(_jobs(settings, rates, options.seeds))
        runs = [pool.submit(_run, s, rate, seed, options.data, options) for s, rate, seed in jobs]
        results: dict[str, list[dict[str, Any]]] = {}
        for (setting, _, _), run in zip(jobs, runs, strict=True):
            results.setdefault(f"{setting.group}: {setting.name}", []).append(run.result())
    console.print(_table(settings, rates, results))


def _table(
    settings: list[Setting], rates: dict[str, float], results: dict[str, list[dict[str, Any]]]
) -> Table:
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    seeds = len(next(iter(results.values())))
    table = Table(title=f"split val, {EPOCHS} epochs, {seeds} seeds, commit {commit}")
    for column in ("", "setting", "lr", "i→t R@1", "t→i R@1", "rsum", "spread", "seconds"):
        table.add_column(column, justify="left" if column in ("", "setting") else "right")
    for setting in settings:
        runs = results[f"{setting.group}: {setting.name}"]
        rsums = [run["rsum"] for run in runs]
        table.add_row(
            setting.group,
            setting.name,
            f"{rates[setting.rate_of or setting.name]:g}",
            *(
                f"{statistics.mean(run[way]['recall_at_1'] for run in runs):.1f}"
                for way in ("image_to_text", "text_to_image")
            ),
            f"{statistics.mean(rsums):.1f}",
            f"{statistics.stdev(rsums):.1f}" if len(rsums) > 1 else "",
            f"{statistics.median(run['seconds'] for run in runs):.0f}",
        )
    return table


if __name__ == "__main__":
    main()
