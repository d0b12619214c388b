"""Draw the curves of trainings as an SVG file.

    python benchmarks/plot_training.py model other-model --out training.svg

The left panel shows the validation rsum of every bundle, the right panel the losses of the last
one. A dotted line is the end of a stage. The curves are read from metrics.json of each bundle.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from common import command_line

mpl.use("Agg")
mpl.rcParams["svg.hashsalt"] = "dualpath"

History = list[dict[str, Any]]  # an entry per epoch


def draw_validation(axes: Axes, history: History, label: str) -> None:
    points = [
        (epoch, entry["validation"]["rsum"])
        for epoch, entry in enumerate(history, start=1)
        if "validation" in entry
    ]
    if points:
        axes.plot(*zip(*points, strict=True), "o-", markersize=3, label=label)


def draw_losses(axes: Axes, history: History) -> None:
    for name in sorted({name for entry in history for name in entry["losses"]}):
        points = [
            (epoch, entry["losses"][name])
            for epoch, entry in enumerate(history, start=1)
            if name in entry["losses"]
        ]
        axes.plot(*zip(*points, strict=True), label=name.replace("_", " "))


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("bundles", type=Path, nargs="+", help="folders of trained models")
    parser.add_argument("--out", type=Path, required=True, help="SVG file to write")
    options = parser.parse_args()
    several = len(options.bundles) > 1
    figure, (validation, losses) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    history: History = []
    for bundle in options.bundles:
        history = json.loads((bundle / "metrics.json").read_text("utf-8"))["history"]
        draw_validation(validation, history, bundle.name)
    validation.set_ylabel("validation rsum")
    if several:
        validation.legend(frameon=False)
    draw_losses(losses, history)
    losses.set_ylabel("training loss, weighted")
    losses.set_title(options.bundles[-1].name if several else "")
    losses.legend(frameon=False)
    for axes in (validation, losses):
        axes.set_xlabel("epoch")
        axes.spines[["top", "right"]].set_visible(False)
        for epoch, (before, after) in enumerate(itertools.pairwise(history), start=1):
            if before["stage"] != after["stage"]:
                axes.axvline(epoch + 0.5, color="grey", linestyle=":")
    figure.savefig(options.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
