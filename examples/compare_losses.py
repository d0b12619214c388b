"""Train two recipes that differ in their losses, and compare the results in a table.

    python examples/compare_losses.py

Draws 400 images of coloured shapes. Both recipes are the recipe "shapes" with some keys changed in
Python. A progress function prints a line per epoch. Takes about a minute on a CPU; such short
trainings show how to compare, not which loss is better.
"""

import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

import dualpath
from dualpath.datasets.synthetic.shapes import write_shapes

SHORT = ["stages.0.epochs=2", "stages.1.epochs=2"]
RECIPES = {
    "instance, ranking and in-batch softmax": SHORT,
    "without the instance loss": [*SHORT, "stages.0.instance=null", "stages.1.instance=null"],
}


def print_epoch(event: dualpath.TrainingEvent) -> None:
    """Print the losses of an epoch. The function is also called for every step and message."""
    if event.stage and event.message:  # only events of a finished epoch have both
        losses = ", ".join(f"{name} {value:.2f}" for name, value in event.losses.items())
        print(f"  stage {event.stage}, epoch {event.epoch}: {losses}")


def train_and_evaluate(overrides: list[str], data: Path, out: Path) -> dualpath.EvaluationResult:
    recipe = dualpath.read_recipe("shapes", overrides)
    model = dualpath.train(recipe, data, out, cache=data / "cache", progress=print_epoch)
    return dualpath.evaluate(model, data, split="val", cache=data / "cache")


def recall_at_1(metrics: dualpath.RetrievalMetrics | None) -> str:
    """Return R@1 in percent; some protocols measure one direction only."""
    return "" if metrics is None else f"{metrics.recall_at_1:.1f}"


def main() -> None:
    table = Table(title="400 drawn images, validation split")
    for column in ("losses", "image to text R@1", "text to image R@1", "rsum"):
        table.add_column(column, justify="left" if column == "losses" else "right")
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "shapes"
        write_shapes(data, scenes=400, size=64)
        for number, (name, overrides) in enumerate(RECIPES.items()):
            print(name)
            result = train_and_evaluate(overrides, data, Path(scratch) / f"model-{number}")
            recalls = (recall_at_1(result.image_to_text), recall_at_1(result.text_to_image))
            table.add_row(name, *recalls, f"{result.rsum:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
