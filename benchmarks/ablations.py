"""Ablate the claims of the paper on a folder of captioned images, in one table.

    python benchmarks/ablations.py --data flickr8k --word-vectors glove.txt \\
        --weights tf_efficientnet_lite0.in1k.safetensors --out ablations

Every setting trains the same small network for the same number of steps on cached features of a
frozen backbone. Settings that differ in their losses each get the best of three learning rates,
chosen on a sixth of the training images that is held out for this choice. The other settings get
the learning rate of the setting that they vary.

The table is measured on the validation split with the weights of the last step, so nothing is
fitted to this split. Finished runs are stored in --out; a second call continues from them.
"""

import argparse
import json
import os
import shutil
import statistics
import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ablation_settings import LEARNING_RATES, Backbone, Setting, all_settings, build_recipe
from common import command_line, commit

HELD_OUT = 6  # one training instance in this many is held out while learning rates are compared
COLUMNS = ("", "setting", "lr", "i→t R@1", "t→i R@1", "rsum", "std", "seconds")

Result = dict[str, Any]  # metrics of the validation split, and seconds


def run(setting: Setting, lr: float, seed: int, data: Path, options: argparse.Namespace) -> Result:
    """Train one setting; read the result if it is stored."""
    epochs = "+".join(str(count) for count, _ in setting.stages)
    name = f"{setting.group}-{setting.name}-{epochs}-{lr:g}-{seed}-{data.name}"
    name = "".join(c if c.isalnum() or c in ".-+" else "_" for c in name)
    stored, bundle = options.out / f"{name}.json", options.out / name
    if stored.exists():
        return dict(json.loads(stored.read_text()))
    import torch

    from dualpath.training.train import train

    torch.set_num_threads(1)
    start = time.perf_counter()
    backbone = Backbone(options.backbone, options.weights, options.word_vectors)
    model = train(
        build_recipe(setting, lr, seed, backbone),
        data,
        bundle,
        resume=(bundle / "training" / "last.pt").exists(),
        cache=options.cache,
        progress=False,
    )
    result = {**model.metrics["validation"], "seconds": time.perf_counter() - start}
    stored.write_text(json.dumps(result, indent=1))
    shutil.rmtree(bundle)
    return result


def write_held_out(data: Path, out: Path) -> Path:
    """Write a manifest of the training images, a part of which are its validation split."""
    from dualpath.data.manifest import read_manifest, write_manifest

    folder = out / "tuning"
    folder.mkdir(parents=True, exist_ok=True)
    images = read_manifest(data).split("train").images
    names = sorted({image.instance for image in images})
    numbers = {name: number for number, name in enumerate(names)}
    rows = [
        {
            "file_name": str(image.path.resolve()),
            "captions": image.captions,
            "instance": image.instance,
            "split": "train" if numbers[image.instance] % HELD_OUT else "val",
        }
        for image in images
    ]
    write_manifest(folder, rows)
    return folder


def choose_learning_rates(
    pool: ProcessPoolExecutor, settings: list[Setting], options: argparse.Namespace
) -> dict[str, float]:
    """Return for each setting the learning rate with the highest rsum on the held-out images."""
    tuning = write_held_out(options.data, options.out)
    trials = {
        (setting.name, lr): pool.submit(run, setting, lr, 0, tuning, options)
        for setting in settings
        for lr in LEARNING_RATES
    }
    best = {}
    for setting in settings:
        rsums = {lr: trials[setting.name, lr].result()["rsum"] for lr in LEARNING_RATES}
        best[setting.name] = max(rsums, key=lambda lr: rsums[lr])
        listed = ", ".join(f"{lr:g}: {rsum:.1f}" for lr, rsum in rsums.items())
        print(f"lr of {setting.name}: {best[setting.name]:g} (rsum held out {listed})", flush=True)
    return best


def as_table(
    settings: list[Setting], lrs: dict[str, float], results: dict[str, list[Result]], title: str
) -> Table:
    table = Table(title=title)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("", "setting") else "right")
    for setting in settings:
        runs = results[setting.key]
        rsums = [result["rsum"] for result in runs]
        table.add_row(
            setting.group,
            setting.name,
            f"{lrs[setting.lr_from or setting.name]:g}",
            *(
                f"{statistics.mean(result[direction]['recall_at_1'] for result in runs):.1f}"
                for direction in ("image_to_text", "text_to_image")
            ),
            f"{statistics.mean(rsums):.1f}",
            f"{statistics.stdev(rsums):.1f}" if len(rsums) > 1 else "",
            f"{statistics.median(result['seconds'] for result in runs):.0f}",
        )
    return table


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with a manifest")
    parser.add_argument("--weights", type=Path, required=True, help="weights of the backbone")
    parser.add_argument(
        "--backbone", default="tf_efficientnet_lite0", help="default: tf_efficientnet_lite0"
    )
    parser.add_argument("--word-vectors", type=Path, required=True, help="in GloVe's format")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished runs")
    parser.add_argument("--cache", type=Path, help="for backbone features; default: the user's")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time; default: 1")
    parser.add_argument("--seeds", type=int, default=3, help="of each row; default: 3")
    parser.add_argument("--epochs", type=int, default=10, help="default: 10")
    parser.add_argument(
        "--stage-two-epochs", type=int, default=3, help="further epochs of Stage II; default: 3"
    )
    parser.add_argument("--groups", nargs="+", help="of rows, by the start of their names")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    every = all_settings(options.epochs, options.stage_two_epochs)
    chosen = [s for s in every if s.group.startswith(tuple(options.groups or [""]))]
    if not chosen:
        parser.error("--groups: choose among " + ", ".join(sorted({s.group for s in every})))
    needed = {setting.lr_from or setting.name for setting in chosen}
    with ProcessPoolExecutor(options.jobs) as pool:
        tuned = [setting for setting in every if setting.name in needed]
        lrs = choose_learning_rates(pool, tuned, options)
        runs: dict[str, list[Future[Result]]] = {setting.key: [] for setting in chosen}
        for seed in range(options.seeds):
            for setting in chosen:
                lr = lrs[setting.lr_from or setting.name]
                submitted = pool.submit(run, setting, lr, seed, options.data, options)
                runs[setting.key].append(submitted)
        results = {key: [one.result() for one in submitted] for key, submitted in runs.items()}
    title = f"split val, {options.epochs} epochs, {options.seeds} seeds, commit {commit()}"
    Console(width=120).print(as_table(chosen, lrs, results, title))


if __name__ == "__main__":
    main()
