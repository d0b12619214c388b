"""Draw the curves of trainings from the metrics of their bundles, as SVG.

The left panel has the validation of every bundle, the right one the losses of the last of them.
"""

import argparse
import itertools
import json
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

mpl.use("Agg")
mpl.rcParams["svg.hashsalt"] = "dualpath"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    figure, (recalls, losses) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for bundle in arguments.bundles:
        history = json.loads((bundle / "metrics.json").read_text("utf-8"))["history"]
        epochs = range(1, len(history) + 1)
        points = [(n, entry["validation"]["rsum"]) for n, entry in zip(epochs, history, strict=True)
                  if "validation" in entry]  # fmt: skip
        recalls.plot(*zip(*points, strict=True), "o-", markersize=3, label=bundle.name)
    recalls.set_ylabel("validation rsum")
    if len(arguments.bundles) > 1:
        recalls.legend(frameon=False)
    names = {name for entry in history for name in entry["losses"]}
    for name in sorted(names):
        points = [(n, e["losses"][name]) for n, e in zip(epochs, history, strict=True)
                  if name in e["losses"]]  # fmt: skip
        losses.plot(*zip(*points, strict=True), label=name.replace("_", " "))
    losses.set_ylabel("training loss, weighted")
    losses.set_title(arguments.bundles[-1].name if len(arguments.bundles) > 1 else "")
    losses.legend(frameon=False)
    for axes in (recalls, losses):
        axes.set_xlabel("epoch")
        axes.spines[["top", "right"]].set_visible(False)
        for n, (before, after) in enumerate(itertools.pairwise(history), start=1):
            if before["stage"] != after["stage"]:
                axes.axvline(n + 0.5, color="grey", linestyle=":")
    figure.savefig(arguments.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
