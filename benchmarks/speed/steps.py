"""The trainer's own steps of a stage, again and again, without its log and checkpoints."""

from collections.abc import Iterator

import numpy as np
import torch
from accelerate import Accelerator
from material import Material
from torch.utils.data import DataLoader

from dualpath.data.cache import default_cache_folder
from dualpath.data.captions import tabulate_captions
from dualpath.models.dual_encoder import build_network
from dualpath.recipes.schema import ResolvedRecipe
from dualpath.recipes.stages import StageRecipe
from dualpath.training.batches import Batch, FeatureSource, PairDataset, PixelSource
from dualpath.training.optim import build_classifier, build_optimizers, freeze
from dualpath.training.sampler import EpochSampler
from dualpath.training.step import step_losses


class Steps:
    """A stage that is trained for as many steps as are called.

    Args:
        recipe: of the network.
        stage: of the recipe.
        material: captions, and the images of ``source`` in the same order.
        source: of the images.
        workers: processes that decode images.

    Attributes:
        network: the network that is trained.
    """

    def __init__(
        self,
        recipe: ResolvedRecipe,
        stage: StageRecipe,
        material: Material,
        source: PixelSource | FeatureSource,
        workers: int,
    ) -> None:
        # It joins the other processes, if there are any, which the classes are shared with.
        self._accelerator = Accelerator(cpu=True)
        torch.manual_seed(0)
        images = material.images
        if isinstance(source, PixelSource):
            images = images[: len(source.paths)]
        self._table = tabulate_captions(images, material.tokenizer, default_cache_folder())
        self.recipe, self.stage = recipe, stage
        self.network = build_network(recipe, material.tokenizer.num_embeddings)
        self._classifier = build_classifier(recipe, torch.arange(self._table.instances))
        freeze(self.network, stage)
        self.network.train()
        self._optimizers = build_optimizers(stage.optimizer, self.network, self._classifier)
        self._prepared = self._accelerator.prepare_model(self.network)
        self._dataset = PairDataset(self._table, source)
        self._workers = workers
        self._batches = self._all_batches()

    def _all_batches(self) -> Iterator[Batch]:
        epoch = 0
        while True:
            sampler = EpochSampler(
                self._table,
                batch_size=self.stage.batch_size,
                captions_per_image=self.stage.captions_per_image,
                seed=(0, 0, epoch),
            )
            yield from DataLoader(
                self._dataset, sampler=sampler, batch_size=None, num_workers=self._workers
            )
            epoch += 1

    def next_batch(self) -> Batch:
        """Return the next batch."""
        return next(self._batches)

    def first_batch(self) -> Batch:
        """Return the first batch, apart from the batches of the steps."""
        return next(self._all_batches())

    def augment(self, batch: Batch) -> torch.Tensor:
        """Return the token ids of a batch as the text encoder receives them in a step."""
        text = self.recipe.text_encoder
        return self.network.text_encoder.augment_tokens(
            batch.token_ids, word_dropout=text.word_dropout, position_shift=text.position_shift
        )

    def step(self) -> None:
        """Train on the next batch."""
        losses = step_losses(
            self._prepared,
            self._classifier,
            self.next_batch(),
            recipe=self.recipe,
            stage=self.stage,
            table=self._table,
            teacher=None,
            seed=0,
            accelerator=self._accelerator,
        )
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        for optimizer in self._optimizers:
            optimizer.step()


def cached_feature_steps(material: Material, name: str) -> Steps:
    """Return the steps of a recipe's Stage I on random features of the right size."""
    recipe = material.recipe(name)
    stage = recipe.stages[0].model_copy(update={"backbone": "frozen", "crops": 0})
    network = build_network(recipe, material.tokenizer.num_embeddings)
    generator = np.random.default_rng(0)
    shape = (len(material.images), network.image_encoder.backbone_dim)
    features = generator.standard_normal(shape).astype(np.float32)
    rows = np.arange(len(features))
    return Steps(recipe, stage, material, FeatureSource([features] * 2, [rows, rows]), workers=0)
