"""What all parts share: the device, sizes, files, recipes, rows of results and timing."""

import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dualpath.models.backbones import resolve_recipe
from dualpath.recipes.loading import read_recipe
from dualpath.recipes.schema import ResolvedRecipe
from dualpath.recipes.stages import RankingLossRecipe

ROOT = Path(__file__).resolve().parents[2]
PRECISIONS = ("tf32", "bf16")


@dataclass(frozen=True)
class Setting:
    """Where a part runs, and how large it is.

    Attributes:
        device: to measure.
        small: use small networks and few steps, to try the code on a CPU.
        scratch: folder of the run.
        part: its name.
    """

    device: torch.device
    small: bool
    scratch: Path
    part: str

    @property
    def scenes(self) -> Path:
        """Drawn PNG files, as ``dualpath prepare shapes`` writes them."""
        return self.scratch / "scenes"

    @property
    def photographs(self) -> Path:
        """Drawn JPEG files of 640 x 480 pixels."""
        return self.scratch / "photographs"

    @property
    def batches(self) -> tuple[int, int]:
        """Images in a small and in a large batch."""
        return (4, 8) if self.small else (32, 256)

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that most parts measure; without bfloat16, which is slow on CPUs."""
        return PRECISIONS[:1] if self.small else PRECISIONS

    @property
    def cores(self) -> int:
        """Cores of this machine, less two for the process that trains."""
        return max(1, (os.cpu_count() or 1) - 2)

    def add_row(self, row: dict[str, Any]) -> None:
        """Write a row of results, so that it is not lost if the part fails later."""
        with (self.scratch / f"{self.part}.rows").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def synchronise(self) -> None:
        """Wait until the device is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def peak_gib(self) -> float:
        """Return the peak memory of tensors since :meth:`reset_peak`, in GiB; 0 on a CPU."""
        return torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else 0.0

    def reset_peak(self) -> None:
        """Start a new measurement of the peak memory."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def recipe(self, name: str, precision: str = "tf32", **image: object) -> ResolvedRecipe:
        """Return a shipped recipe without pretrained weights and word vectors (downloads)."""
        recipe = read_recipe(name)
        encoder = {"pretrained": False, **image}
        text: dict[str, object] = {"word_vectors": None, "vocabulary": "modern"}
        if self.small:
            encoder |= {"backbone": "test_resnet", "input_size": 64}
            text["width"] = 0.125
        changes = {
            "dim": 256 if self.small else recipe.dim,
            "image_encoder": recipe.image_encoder.model_copy(update=encoder),
            "text_encoder": recipe.text_encoder.model_copy(update=text),
            "mixed_precision": "bf16" if precision == "bf16" else "no",
            "workers": self.cores,
        }
        return resolve_recipe(recipe.model_copy(update=changes))

    def paper(self, precision: str, batch: int) -> ResolvedRecipe:
        """Return the recipe ``flickr30k`` (ResNet-50, the paper's text CNN) with fixed views.

        Negatives come from the batch, so that a step does the same work as a bare one.
        """
        recipe = self.recipe("flickr30k", precision, test_size=None)
        first, second = recipe.stages
        changes = {"batch_size": batch, "crops": 0, "epochs": 1, "validate_every": 1}
        ranking = {"ranking": RankingLossRecipe(negatives="hardest")}
        stages = (
            first.model_copy(update=changes),
            second.model_copy(update={**changes, **ranking}),
        )
        return recipe.model_copy(update={"stages": stages})


def set_precision(precision: str) -> None:
    """Use TF32 in matrix products of single precision, unless ``precision`` is ``default``.

    torch uses it in convolutions in either case.
    """
    torch.set_float32_matmul_precision("highest" if precision == "default" else "high")


def seconds_of(
    setting: Setting, call: Callable[[], object], *, calls: int, windows: int = 5, warmup: int = 3
) -> float:
    """Return the seconds of one call: the median over windows of several calls."""
    for _ in range(1 if setting.small else warmup):
        call()
    times = []
    for _ in range(2 if setting.small else windows):
        setting.synchronise()
        started = time.perf_counter()
        for _ in range(1 if setting.small else calls):
            call()
        setting.synchronise()
        times.append((time.perf_counter() - started) / (1 if setting.small else calls))
    return statistics.median(times)
