"""CPU time of 256 captions at once: the exported text encoder, compared with torch.

    OMP_NUM_THREADS=1 python benchmarks/speed/many_texts.py MODEL DATA

torch runs the captions in batches of similar length ("packed"), as the exported encoder does.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dualpath.data.manifest import read_manifest
from dualpath.inference.model import load

COUNT, ROUNDS = 256, 9


def cpu_ms(embed: Callable[[list[str]], object], texts: list[str]) -> float:
    start = time.process_time()
    embed(texts)
    return 1000 * (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    options = parser.parse_args()
    captions = list(read_manifest(options.data).images.captions)
    generator = np.random.default_rng(0)
    samples = [list(generator.choice(captions, COUNT)) for _ in range(ROUNDS + 1)]
    models = {"exported": load(options.model), "torch": load(options.model, runtime="torch")}
    times: dict[str, list[float]] = {name: [] for name in models}
    for sample in samples:
        for name, model in models.items():
            times[name].append(cpu_ms(model.embed_texts, sample))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    print(
        f"{COUNT} captions: exported {medians['exported']:.1f} ms, "
        f"torch {medians['torch']:.1f} ms, ratio {medians['torch'] / medians['exported']:.2f}"
    )


if __name__ == "__main__":
    main()
