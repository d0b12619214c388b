"""Compare the two stages of the paper with the ranking loss alone, on the pedestrians set.

    dualpath prepare pedestrians --out pedestrians
    python benchmarks/pedestrians.py --data pedestrians --out runs \\
        --weights tf_efficientnet_lite0.in1k.safetensors

All systems have the same network and train for about the same time:

- the recipe ``pedestrians``: two stages, instance and ranking loss
- two stages with the ranking loss alone, hardest negative of the batch
- two stages with the ranking loss alone, one negative at random
- the ranking loss alone, the whole network trained from the start

A factor of the learning rates is chosen for each system by R@1 on the validation split, with seed
0. Then each system is measured on the test split by the protocol "person". Finished runs are stored
in --out; a second call continues from them.
"""

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from common import command_line, commit
from dualpath.evaluation.evaluate import evaluate
from dualpath.recipes.loading import read_recipe
from dualpath.recipes.schema import Recipe
from dualpath.training.train import train

RECIPE = "pedestrians"
BOTH = "two stages, both losses"
HARDEST = "two stages, ranking loss alone, hardest negative"
RANDOM = "two stages, ranking loss alone, random negative"
END_TO_END = "end to end, ranking loss alone, hardest negative"
FACTORS = {
    BOTH: (0.3, 1.0),
    HARDEST: (0.1, 0.3, 1.0),
    RANDOM: (0.3, 1.0),
    END_TO_END: (0.1, 0.3, 1.0),
}
END_TO_END_EPOCHS = 6
COLUMNS = ("system", "factor", "R@1", "std", "R@5", "R@10", "mAP", "mINP", "seconds")


def build_recipe(system: str, factor: float, seed: int, options: argparse.Namespace) -> Recipe:
    """Return the recipe of a system, with learning rates multiplied by ``factor``."""
    recipe = read_recipe(RECIPE, [f"seed={seed}", f"image_encoder.weights={options.weights}"])
    tree = recipe.model_dump(mode="json")
    first, second = tree["stages"]
    if system != BOTH:
        for stage in (first, second):
            stage["instance"], stage["ranking"] = None, second["ranking"]
            if system == RANDOM:
                stage["ranking"] = {"margin": 1.0, "negatives": "random"}
    if system == END_TO_END:
        tree["stages"] = [{**second, "epochs": END_TO_END_EPOCHS}]
    for stage in tree["stages"]:
        stage["optimizer"]["lr"] *= factor
        stage["epochs"] = min(stage["epochs"], options.epochs or stage["epochs"])
    return Recipe.model_validate(tree)


def run(system: str, factor: float, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train one system and measure it on val and test; read the result if it is stored."""
    limit = f" at most {options.epochs} epochs" if options.epochs else ""
    name = "".join(c if c.isalnum() else "-" for c in f"{system} {factor:g} {seed}{limit}")
    stored, bundle = options.out / f"{name}.json", options.out / name
    if stored.exists():
        return dict(json.loads(stored.read_text()))
    start = time.perf_counter()
    model = train(
        build_recipe(system, factor, seed, options),
        options.data,
        bundle,
        resume=(bundle / "training" / "last.pt").exists(),
        cache=options.cache,
        progress=False,
    )
    result: dict[str, Any] = {"seconds": time.perf_counter() - start}
    for split in ("val", "test"):
        measured = evaluate(
            model, options.data, split=split, protocol="person", cache=options.cache
        )
        result[split] = measured.to_dict()["text_to_image"]
    stored.write_text(json.dumps(result, indent=1))
    shutil.rmtree(bundle)
    return result


def choose_factor(system: str, options: argparse.Namespace, console: Console) -> float:
    """Return the factor of the learning rates with the highest R@1 on the validation split."""
    recalls = {
        factor: run(system, factor, 0, options)["val"]["recall_at_1"] for factor in FACTORS[system]
    }
    listed = ", ".join(f"{factor:g}: {recall:.1f}" for factor, recall in recalls.items())
    console.print(f"{system}: R@1 on val by factor of the learning rates: {listed}")
    return max(recalls, key=lambda factor: recalls[factor])


def measure_test(system: str, factor: float, options: argparse.Namespace) -> list[str]:
    """Return the row of a system, measured on the test split over the seeds."""
    runs = [run(system, factor, seed, options) for seed in range(options.seeds)]
    mean = {name: statistics.mean(r["test"][name] for r in runs) for name in runs[0]["test"]}
    recalls = [r["test"]["recall_at_1"] for r in runs]
    return [
        system,
        f"{factor:g}",
        f"{mean['recall_at_1']:.1f}",
        f"{statistics.stdev(recalls):.1f}" if len(recalls) > 1 else "",
        *(f"{mean[name]:.1f}" for name in ("recall_at_5", "recall_at_10", "map", "minp")),
        f"{statistics.median(r['seconds'] for r in runs):.0f}",
    ]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the pedestrians set")
    parser.add_argument("--weights", type=Path, required=True, help="weights of the backbone")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished runs")
    parser.add_argument("--cache", type=Path, help="for backbone features; default: the user's")
    parser.add_argument("--seeds", type=int, default=3, help="of each system; default: 3")
    parser.add_argument("--epochs", type=int, help="at most, in a stage; for a quick trial")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    console = Console(width=120)
    factors = {system: choose_factor(system, options, console) for system in FACTORS}
    title = f"text to image, split test, {options.seeds} seeds, commit {commit()}"
    table = Table(title=title)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "system" else "right")
    for system, factor in factors.items():
        table.add_row(*measure_test(system, factor, options))
    console.print(table)


if __name__ == "__main__":
    main()
