"""Draw the curve of a training from the metrics of its bundle, as SVG."""

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
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    history = json.loads((arguments.bundle / "metrics.json").read_text("utf-8"))["history"]

    figure, (recalls, losses) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    epochs = range(1, len(history) + 1)
    measured = [(n, entry["validation"]) for n, entry in zip(epochs, history, strict=True)
                if "validation" in entry]  # fmt: skip
    places = [n for n, _ in measured]
    recalls.plot(places, [m["rsum"] for _, m in measured], "o-", color="black", label="rsum")
    recalls.set_ylabel("validation rsum")
    names = {name for entry in history for name in entry["losses"]}
    for name in sorted(names):
        points = [(n, e["losses"][name]) for n, e in zip(epochs, history, strict=True)
                  if name in e["losses"]]  # fmt: skip
        losses.plot(*zip(*points, strict=True), label=name.replace("_", " "))
    losses.set_ylabel("training loss, weighted")
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
