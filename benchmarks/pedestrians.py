"""The paper's two stages against the ranking loss alone, end to end, on the pedestrians set.

    dualpath prepare pedestrians --out pedestrians
    python benchmarks/pedestrians.py --data pedestrians --out runs \\
        --weights tf_efficientnet_lite0.in1k.safetensors

Systems of the same network and about the same time: the recipe as it is; the same stages with the
ranking loss alone in both, against the hardest of the batch and against one at random; and the
ranking loss alone with the whole network trained from the start. Each gets the best of its rates
by split val, and is then measured on split test by the protocol "person", over seeds. Finished
runs are kept in --out.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from dualpath.evaluation.evaluate import evaluate
from dualpath.recipes.loading import read_recipe
from dualpath.recipes.schema import Recipe
from dualpath.training.train import train
from dualpath.utils.progress import Display

RECIPE = Path(__file__).parents[1] / "recipes" / "pedestrians.yaml"
RATES = {
    "two stages, both losses": (0.3, 1.0),
    "two stages, ranking loss alone": (0.1, 0.3, 1.0),
    "two stages, ranking loss alone, one at random": (0.3, 1.0),
    "end to end, ranking loss alone": (0.1, 0.3, 1.0),
}
END_TO_END_EPOCHS = 6


def _recipe(system: str, rate: float, seed: int, weights: Path) -> Recipe:
    recipe = read_recipe(RECIPE, [f"seed={seed}", f"image_encoder.weights={weights}"])
    tree = recipe.model_dump(mode="json")
    first, second = tree["stages"]
    if system != "two stages, both losses":
        for stage in (first, second):
            stage["instance"], stage["ranking"] = None, second["ranking"]
            if system.endswith("one at random"):
                stage["ranking"] = {"margin": 1.0, "negatives": "random"}
    if system == "end to end, ranking loss alone":
        tree["stages"] = [{**second, "epochs": END_TO_END_EPOCHS}]
    for stage in tree["stages"]:
        stage["optimizer"]["lr"] *= rate
    return Recipe.model_validate(tree)


def _run(system: str, rate: float, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train one system once and measure it on val and test, or read what it gave before."""
    name = "".join(c if c.isalnum() else "-" for c in f"{system} {rate:g} {seed}")
    kept, work = options.out / f"{name}.json", options.out / name
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    begun = time.perf_counter()
    model = train(
        _recipe(system, rate, seed, options.weights),
        options.data,
        work,
        resume=(work / "training" / "last.pt").exists(),
        cache=options.cache,
        display=Display(Console(quiet=True)),
    )
    found: dict[str, Any] = {"seconds": time.perf_counter() - begun}
    for split in ("val", "test"):
        found[split] = evaluate(
            model, options.data, split=split, protocol="person", cache=options.cache
        )["text_to_image"]
    kept.write_text(json.dumps(found, indent=1))
    shutil.rmtree(work)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    console = Console(soft_wrap=True)
    best = {}
    for system, rates in RATES.items():
        tried = {rate: _run(system, rate, 0, options)["val"]["recall_at_1"] for rate in rates}
        best[system] = max(tried, key=lambda rate, tried=tried: tried[rate])
        listed = ", ".join(f"{rate:g}: {value:.1f}" for rate, value in tried.items())
        console.print(f"{system}: val R@1 by factor of the rates: {listed}")
    git = ["git", "-C", str(RECIPE.parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    table = Table(title=f"text to image, split test, {options.seeds} seeds, commit {commit}")
    for column in ("system", "rates", "R@1", "spread", "R@5", "R@10", "mAP", "mINP", "seconds"):
        table.add_column(column, justify="left" if column == "system" else "right")
    for system, rate in best.items():
        runs = [_run(system, rate, seed, options) for seed in range(options.seeds)]
        mean = {
            name: statistics.mean(run["test"][name] for run in runs) for name in runs[0]["test"]
        }
        recalls = [run["test"]["recall_at_1"] for run in runs]
        table.add_row(
            system,
            f"x {rate:g}",
            f"{mean['recall_at_1']:.1f}",
            f"{statistics.stdev(recalls):.1f}" if len(recalls) > 1 else "",
            *(f"{mean[name]:.1f}" for name in ("recall_at_5", "recall_at_10", "map", "minp")),
            f"{statistics.median(run['seconds'] for run in runs):.0f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
