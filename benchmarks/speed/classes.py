"""The instance loss over a million classes: a step of the classifier, and its memory.

``suite.py`` runs this script for each case, once in one process and once in two processes (gloo)
that have one thread and half of the classes each.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from timing import Row
from torch import distributed as dist
from torch.distributed.tensor.parallel import loss_parallel

from dualpath.losses.instance import InstanceClassifier

IMAGES, CAPTIONS, DIM, STEPS = 64, 128, 512, 3
CASES: dict[str, dict[str, Any]] = {
    "all classes, 512 numbers": {},
    "all classes, projected to 256": {"projection_dim": 256},
    "a tenth of the classes per step": {"sample_rate": 0.1},
    "a tenth, projected to 256": {"sample_rate": 0.1, "projection_dim": 256},
}


def class_rows(classes: int) -> Iterator[Row]:
    """Measure each case in processes of its own, so that the peak memory is that of the case."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    results = {}
    for case, processes in product(CASES, (1, 2)):
        command = [*launch, str(processes), __file__, case, str(classes)]
        output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        results[case, processes] = json.loads(output)
    first = results[next(iter(results))]
    for (case, processes), result in results.items():
        yield Row(
            "classes",
            f"step of the classifier, {classes:,} classes, {IMAGES} images, {CAPTIONS} "
            f"captions: {case}, processes: {processes}",
            "all classes, 512 numbers, processes: 1",
            own_seconds=result["seconds"],
            other_seconds=first["seconds"],
            ratio=first["seconds"] / result["seconds"],
            spread=(first["seconds"] / result["slowest"], first["seconds"] / result["fastest"]),
            note=f"peak memory of a process {result['mebibytes']:,.0f} MiB",
        )


def measure_steps(case: str, classes: int) -> list[float]:
    """Return the seconds of some steps of the classifier, after one to warm up, in order."""
    torch.manual_seed(0)
    classifier = InstanceClassifier(DIM, torch.arange(classes), **CASES[case])
    rows = classifier.weights()
    optimizer: torch.optim.Optimizer
    if classifier.sample_rate < 1:
        optimizer = torch.optim.SparseAdam(rows, lr=1e-3)
    else:
        optimizer = torch.optim.AdamW(rows, lr=1e-3, fused=True)
    seconds = []
    for _ in range(STEPS + 1):
        ids = torch.randint(classes, (IMAGES,))
        images = torch.randn(IMAGES, DIM, requires_grad=True)
        texts = torch.randn(CAPTIONS, DIM, requires_grad=True)
        start = time.perf_counter()
        with loss_parallel():
            image_loss, text_loss = classifier(images, texts, ids, ids.repeat(2), logit_scale=16.0)
            optimizer.zero_grad(set_to_none=True)
            (image_loss + text_loss).backward()
        optimizer.step()  # type: ignore[no-untyped-call]
        seconds.append(time.perf_counter() - start)
    return sorted(seconds[1:])


def main() -> None:
    case, classes = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    seconds = measure_steps(case, classes)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if dist.get_rank() == 0:
        result = {
            "seconds": seconds[len(seconds) // 2],
            "fastest": seconds[0],
            "slowest": seconds[-1],
            "mebibytes": peak,
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
