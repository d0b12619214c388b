"""Measure which parts of a Stage I epoch on cached features take how much time.

    python benchmarks/stage_one_profile.py
    python benchmarks/stage_one_profile.py --images 512 --epochs 1

Runs the steps of the trainer, without its log and checkpoints, for the first stage of the recipe
``flickr8k``. Captions and features are random and of Flickr8k's size: 6,000 images with five
captions each. Prints the share of forward pass, backward pass, optimiser and data in the time of an
epoch.
"""

import statistics
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from common import command_line
from dualpath.data.cache import default_cache_folder
from dualpath.data.captions import tabulate_captions
from dualpath.data.record import ImageRecord
from dualpath.data.table import ImageTable
from dualpath.data.tokenizer import Tokenizer
from dualpath.models.backbones import resolve_recipe
from dualpath.models.dual_encoder import build_network
from dualpath.recipes.loading import read_recipe
from dualpath.training.batches import FeatureSource, PairDataset
from dualpath.training.optim import build_classifier, build_optimizers, freeze
from dualpath.training.sampler import EpochSampler
from dualpath.training.step import step_losses

RECIPE, CAPTIONS, WORDS = "flickr8k", 5, 4444


def random_images(images: int, generator: np.random.Generator) -> ImageTable:
    """Return images with captions of 6 to 17 words, which are as frequent as in a language."""
    records = []
    for number in range(images):
        captions = tuple(
            " ".join(f"w{word}" for word in generator.zipf(1.3, size=length) % WORDS)
            for length in generator.integers(6, 18, size=CAPTIONS)
        )
        name = f"{number}.jpg"
        records.append(ImageRecord(name, Path(name), captions, name, "train", number))
    return ImageTable.from_records(records)


class Profiler:
    """The steps of Stage I, with the time of their parts."""

    def __init__(self, images: int) -> None:
        generator = np.random.default_rng(0)
        torch.manual_seed(0)
        self.recipe = resolve_recipe(read_recipe(RECIPE))
        self.stage = self.recipe.stages[0]
        words = [f"w{number}" for number in range(WORDS)]
        tokenizer = Tokenizer(words, "modern", self.recipe.text_encoder.max_words)
        self.table = tabulate_captions(
            random_images(images, generator), tokenizer, default_cache_folder()
        )
        self.network = build_network(self.recipe, tokenizer.num_embeddings)
        freeze(self.network, self.stage)
        self.classifier = build_classifier(self.recipe, torch.arange(self.table.instances))
        self.optimizers = build_optimizers(self.stage.optimizer, self.network, self.classifier)
        self.accelerator = Accelerator(cpu=True)
        features = generator.normal(size=(images, self.network.image_encoder.backbone_dim))
        rows = np.arange(images)
        source = FeatureSource([features.astype(np.float32)] * 2, [rows, rows])
        self.dataset = PairDataset(self.table, source)

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch and return the seconds of each part."""
        seconds = dict.fromkeys(("forward", "backward", "optimiser"), 0.0)
        sampler = EpochSampler(
            self.table,
            batch_size=self.stage.batch_size,
            captions_per_image=self.stage.captions_per_image,
            seed=(0, 0, epoch),
        )
        begin = time.perf_counter()
        for batch in DataLoader(self.dataset, sampler=sampler, batch_size=None):
            start = time.perf_counter()
            losses = step_losses(
                self.network,
                self.classifier,
                batch,
                recipe=self.recipe,
                stage=self.stage,
                table=self.table,
                teacher=None,
                seed=0,
                accelerator=self.accelerator,
            )
            loss = torch.stack(list(losses.values())).sum()
            forward = time.perf_counter()
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            backward = time.perf_counter()
            for optimizer in self.optimizers:
                optimizer.step()
            seconds["forward"] += forward - start
            seconds["backward"] += backward - forward
            seconds["optimiser"] += time.perf_counter() - backward
        whole = time.perf_counter() - begin
        return {**seconds, "data": whole - sum(seconds.values()), "epoch": whole}


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--images", type=int, default=6000, help="default: 6000")
    parser.add_argument("--epochs", type=int, default=3, help="default: 3")
    options = parser.parse_args()
    profiler = Profiler(options.images)
    epochs = [profiler.run_epoch(epoch) for epoch in range(options.epochs)]
    table = Table(
        title=f"Stage I of {RECIPE}, {options.images:,} images, {torch.get_num_threads()} threads"
    )
    for column in ("part", "seconds per epoch (median)", "share"):
        table.add_column(column)
    whole = statistics.median(epoch["epoch"] for epoch in epochs)
    for part in epochs[0]:
        seconds = statistics.median(epoch[part] for epoch in epochs)
        table.add_row(part, f"{seconds:.2f}", f"{100 * seconds / whole:.1f} %")
    Console(soft_wrap=True).print(table)


if __name__ == "__main__":
    main()
