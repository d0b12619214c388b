"""The instance loss over a million classes: a step of the classifier, and its memory.

Alone and shared by two processes (gloo), each of which has a thread and half of the classes.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import product

import torch
from timing import Row
from torch import distributed as dist
from torch.distributed.tensor.parallel import loss_parallel

from dualpath.losses.instance import InstanceClassifier

IMAGES, CAPTIONS, DIM, STEPS = 64, 128, 512, 3
WAYS = {
    "all classes, 512 numbers": {},
    "all classes, projected to 256": {"projection": 256},
    "a tenth of the classes a step": {"fraction": 0.1},
    "a tenth, projected to 256": {"fraction": 0.1, "projection": 256},
}


def class_rows(classes: int) -> Iterator[Row]:
    """Each way in a process of its own, so that its peak memory is its own."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    told = {}
    for way, count in product(WAYS, (1, 2)):
        command = [*launch, str(count), __file__, way, str(classes)]
        told[way, count] = json.loads(
            subprocess.run(command, capture_output=True, check=True).stdout
        )
    first = told[next(iter(told))]
    for (way, count), found in told.items():
        yield Row(
            "classes",
            f"step of the classifier, {classes:,} classes, {IMAGES} images, {CAPTIONS} "
            f"captions: {way}, processes: {count}",
            "all classes, 512 numbers",
            found["seconds"],
            first["seconds"],
            first["seconds"] / found["seconds"],
            (first["seconds"] / found["slowest"], first["seconds"] / found["fastest"]),
            note=f"peak memory of a process {found['mebibytes']:,.0f} MiB",
        )


def main() -> None:
    way, classes = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    classifier = InstanceClassifier(DIM, torch.arange(classes), **WAYS[way])
    rows = classifier.weights()
    if classifier.fraction < 1:
        optimizer: torch.optim.Optimizer = torch.optim.SparseAdam(rows, lr=1e-3)
    else:
        optimizer = torch.optim.AdamW(rows, lr=1e-3, fused=True)
    seconds = []
    for _ in range(STEPS + 1):
        ids = torch.randint(classes, (IMAGES,))
        images = torch.randn(IMAGES, DIM, requires_grad=True)
        texts = torch.randn(CAPTIONS, DIM, requires_grad=True)
        begun = time.perf_counter()
        with loss_parallel():
            losses = classifier(images, texts, ids, ids.repeat(2), scale=16.0)
            optimizer.zero_grad(set_to_none=True)
            sum(losses).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begun)
    told = sorted(seconds[1:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if dist.get_rank() > 0:
        return
    print(
        json.dumps(
            {
                "seconds": told[len(told) // 2],
                "fastest": told[0],
                "slowest": told[-1],
                "mebibytes": peak,
            }
        )
    )


if __name__ == "__main__":
    main()
