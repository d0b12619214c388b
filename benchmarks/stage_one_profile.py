"""Where a Stage I epoch on cached features spends its time.

Trains the Flickr8k recipe's first stage on synthetic captions and features of the same size
(6,000 images, five captions each), and prints the share of the epoch's wall time that goes
into forward, backward and optimiser.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from dualpath.data.cache import default_cache_folder
from dualpath.data.captions import EpochPlan, FeatureSource, PairDataset, tabulate_captions
from dualpath.data.table import ImageTable, Item
from dualpath.data.tokenizer import Tokenizer
from dualpath.losses.instance import InstanceClassifier
from dualpath.models.dual_encoder import build_network
from dualpath.recipes.loading import read_recipe
from dualpath.training.objective import augment_tokens, build_optimizers, stage_losses

RECIPE = Path(__file__).parents[1] / "recipes" / "flickr8k.yaml"
IMAGES, CAPTIONS, WORDS = 6000, 5, 4444


def synthetic_items(generator: np.random.Generator) -> ImageTable:
    items = []
    for number in range(IMAGES):
        captions = tuple(
            " ".join(f"w{word}" for word in generator.zipf(1.3, size=length) % WORDS)
            for length in generator.integers(6, 18, size=CAPTIONS)
        )
        name = f"{number}.jpg"
        items.append(Item(name, Path(name), captions, name, "train", number))
    return ImageTable.of(items)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    recipe = read_recipe(RECIPE)
    stage = recipe.stages[0]
    tokenizer = Tokenizer([f"w{i}" for i in range(WORDS)], "modern", recipe.text_encoder.max_words)
    table = tabulate_captions(synthetic_items(generator), tokenizer, default_cache_folder())
    network = build_network(recipe, tokenizer.num_embeddings)
    network.image_encoder.set_backbone("frozen")
    classifier = InstanceClassifier(recipe.dim, torch.arange(table.instances))
    optimizers = build_optimizers(stage.optimizer, network, classifier)
    features = generator.normal(size=(IMAGES, network.image_encoder.backbone_dim))
    rows = np.arange(IMAGES)
    images = FeatureSource([features.astype(np.float32)] * 2, [rows, rows])
    dataset = PairDataset(table, images)

    epochs: list[dict[str, float]] = []
    for epoch in range(arguments.epochs):
        spent = dict.fromkeys(("forward", "backward", "optimiser"), 0.0)
        plan = EpochPlan(
            table,
            batch_size=stage.batch_size,
            captions_per_image=stage.captions_per_image,
            seed=(0, 0, epoch),
        )
        begun = time.perf_counter()
        for batch in DataLoader(dataset, sampler=plan, batch_size=None):
            start = time.perf_counter()
            token_ids = augment_tokens(network.text_encoder, batch.token_ids, recipe.text_encoder)
            images, texts = network(batch.images, token_ids)
            losses = stage_losses(
                stage, classifier, images, texts, batch.owners, batch.instance_ids
            )
            loss = torch.stack(list(losses.values())).sum()
            forward = time.perf_counter()
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            backward = time.perf_counter()
            for optimizer in optimizers:
                optimizer.step()
            done = time.perf_counter()
            spent["forward"] += forward - start
            spent["backward"] += backward - forward
            spent["optimiser"] += done - backward
        whole = time.perf_counter() - begun
        epochs.append({**spent, "data": whole - sum(spent.values()), "epoch": whole})

    report = Table(title=f"Stage I of {RECIPE.stem}, {torch.get_num_threads()} threads")
    for column in ("part", "seconds an epoch (median)", "share"):
        report.add_column(column)
    whole = statistics.median(epoch["epoch"] for epoch in epochs)
    for part in ("forward", "backward", "optimiser", "data", "epoch"):
        seconds = statistics.median(epoch[part] for epoch in epochs)
        report.add_row(part, f"{seconds:.2f}", f"{100 * seconds / whole:.1f} %")
    Console().print(report)


if __name__ == "__main__":
    main()
