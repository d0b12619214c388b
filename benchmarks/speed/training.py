"""Training steps, from files or kept features, beside bare forward and backward passes."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from accelerate import Accelerator
from material import Material
from timing import Row, paired
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dualpath.data.cache import default_cache_folder
from dualpath.data.captions import (
    Batch,
    EpochPlan,
    FeatureSource,
    PairDataset,
    PixelSource,
    tabulate_captions,
)
from dualpath.models.dual_encoder import DualEncoder, build_network
from dualpath.recipes.schema import Recipe
from dualpath.recipes.stages import RankingLossRecipe, StageRecipe
from dualpath.training.objective import augment_tokens, build_classifier, build_optimizers, freeze
from dualpath.training.step import step_losses


def training_rows(material: Material) -> Iterator[Row]:
    yield _second_stage(material, "hardest", asked=1 / 1.15)
    yield _second_stage(material, "mined")
    yield from _first_stage(material)


class Steps:
    """The trainer's own steps of a stage, over and over."""

    def __init__(
        self, recipe: Recipe, stage: StageRecipe, material: Material, images: object, workers: int
    ) -> None:
        self.accelerator = Accelerator(cpu=True)  # joins the other processes, if there are any
        torch.manual_seed(0)
        count = len(material.files) if isinstance(images, PixelSource) else len(material.items)
        items = material.items[:count]
        self.table = tabulate_captions(items, material.tokenizer, default_cache_folder())
        self.network = build_network(recipe, material.tokenizer.num_embeddings)
        self.classifier = build_classifier(recipe, torch.arange(self.table.instances))
        freeze(self.network, stage)
        self.network.train()
        self.optimizers = build_optimizers(stage.optimizer, self.network, self.classifier)
        self.recipe, self.stage = recipe, stage
        self._prepared = self.accelerator.prepare_model(self.network)
        self._dataset = PairDataset(self.table, images)  # type: ignore[arg-type]
        self._workers = workers
        self._batches = self._forever()

    def _forever(self) -> Iterator[Batch]:
        epoch = 0
        while True:
            plan = EpochPlan(
                self.table,
                batch_size=self.stage.batch_size,
                captions_per_image=self.stage.captions_per_image,
                seed=(0, 0, epoch),
            )
            yield from DataLoader(
                self._dataset, sampler=plan, batch_size=None, num_workers=self._workers
            )
            epoch += 1

    def batch(self) -> Batch:
        return next(self._batches)

    def step(self) -> None:
        losses = step_losses(
            self._prepared,
            self.classifier,
            self.batch(),
            recipe=self.recipe,
            stage=self.stage,
            table=self.table,
            teacher=None,
            seed=0,
            accelerator=self.accelerator,
        )
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        for optimizer in self.optimizers:
            optimizer.step()


def _bare(network: DualEncoder, images: Tensor, token_ids: Tensor) -> Callable[[], None]:
    def run() -> None:
        image_features, text_features = network(images, token_ids)
        (image_features.sum() + text_features.sum()).backward()
        network.zero_grad(set_to_none=True)

    return run


def _second_stage(material: Material, negatives: str, asked: float | None = None) -> Row:
    recipe = material.recipe("flickr30k", test_size=None)
    ranking = RankingLossRecipe(negatives=negatives)  # type: ignore[arg-type]
    stage = recipe.stages[-1].model_copy(
        update={"batch_size": 32, "backbone": "trained", "ranking": ranking}
    )
    images = PixelSource(material.files, 224, stage.flip, stage.crops)
    steps = Steps(recipe, stage, material, images, workers=1)
    batch = next(steps._forever())
    placed = augment_tokens(steps.network.text_encoder, batch.token_ids, recipe.text_encoder)
    return paired(
        "training",
        "Stage II step, ResNet-50 and the paper's text CNN, 32 JPEG files of 500 x 375, "
        f"{negatives} negatives",
        steps.step,
        "forward and backward of the same network on a tensor",
        _bare(steps.network, batch.images, placed),
        rounds=3,
        asked=asked,
    )


def _first_stage(material: Material) -> Iterator[Row]:
    yield _beside_its_text_cnn(*kept_steps(material, "flickr30k"), rounds=5)
    recipe, steps = kept_steps(material, "flickr8k")
    yield _beside_its_text_cnn(recipe, steps, rounds=9)
    batch = steps.batch()
    captions = len(batch.token_ids)
    yield paired(
        "training",
        _name(recipe, steps),
        steps.step,
        "forward and backward of both paths",
        _bare(steps.network, batch.images, batch.token_ids),
        rounds=9,
    )
    recurrent = BiGRU(material.tokenizer.num_embeddings, recipe.text_encoder.embedding_dim)
    yield paired(
        "training",
        f"forward and backward of the text CNN, {captions} captions",
        _of_texts(steps.network.text_encoder, batch.token_ids),
        "a bidirectional GRU of 1,024 units",
        _of_texts(recurrent, batch.token_ids),
        rounds=5,
    )


def kept_steps(material: Material, name: str) -> tuple[Recipe, Steps]:
    """Return the steps of a recipe's Stage I on kept features (random numbers of their shape)."""
    recipe = material.recipe(name)
    stage = recipe.stages[0].model_copy(update={"backbone": "frozen", "crops": 0})
    network = build_network(recipe, material.tokenizer.num_embeddings)
    generator = np.random.default_rng(0)
    kept = generator.standard_normal((len(material.items), network.image_encoder.backbone_dim))
    rows = np.arange(len(kept))
    images = FeatureSource([kept.astype(np.float32)] * 2, [rows, rows])
    return recipe, Steps(recipe, stage, material, images, workers=0)


def _name(recipe: Recipe, steps: Steps) -> str:
    images = steps.stage.batch_size
    captions = images * steps.stage.captions_per_image
    return f"Stage I step of recipes/{recipe.name}.yaml, {images} images x {captions}"


def _beside_its_text_cnn(recipe: Recipe, steps: Steps, rounds: int) -> Row:
    encoder, text = steps.network.text_encoder, recipe.text_encoder
    placed = augment_tokens(encoder, steps.batch().token_ids, text)
    return paired(
        "training",
        _name(recipe, steps),
        steps.step,
        "forward and backward of its text CNN",
        _of_texts(encoder, placed),
        rounds=rounds,
        asked=1 / 1.1,
    )


def _of_texts(encoder: nn.Module, token_ids: Tensor) -> Callable[[], None]:
    def run() -> None:
        encoder(token_ids).sum().backward()
        encoder.zero_grad(set_to_none=True)

    return run


class BiGRU(nn.Module):
    """A recurrent text path: the mean of the states of both directions."""

    def __init__(self, rows: int, embedding_dim: int, units: int = 1024) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows, embedding_dim, padding_idx=0)
        self.rnn = nn.GRU(embedding_dim, units, batch_first=True, bidirectional=True)

    def forward(self, token_ids: Tensor) -> Tensor:
        lengths = (token_ids != 0).sum(dim=1).clamp(min=1)
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(token_ids), lengths, batch_first=True, enforce_sorted=False
        )
        states, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return states.sum(dim=1) / lengths[:, None]
