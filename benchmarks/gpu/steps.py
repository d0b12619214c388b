"""Measure training steps on a batch in device memory, beside bare steps of the same modules."""

import copy
import gc
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from setting import PRECISIONS, Setting, seconds_of, set_precision
from torch import Tensor

from dualpath.data.captions import CaptionTable
from dualpath.losses.instance import InstanceClassifier
from dualpath.models.dual_encoder import DualEncoder, build_network
from dualpath.recipes.schema import ResolvedRecipe
from dualpath.recipes.stages import StageRecipe
from dualpath.training.batches import Batch
from dualpath.training.optim import Optimizers, build_classifier, build_optimizers, freeze
from dualpath.training.step import step_losses

WORDS, INSTANCES = 20_074, 29_783  # those of Flickr30k


def measure_steps(setting: Setting) -> None:
    """Measure both stages with both batch sizes, in every precision."""
    small, large = setting.batches
    for batch, precisions in ((small, ("default", *PRECISIONS)), (large, setting.precisions)):
        for precision in precisions:
            for stage in (0, 1):
                _measure(setting, precision, batch, stage)


def _measure(setting: Setting, precision: str, batch_size: int, number: int) -> None:
    set_precision(precision)
    recipe = setting.paper(precision, batch_size)
    stage = recipe.stages[number]
    seconds, memory = {}, {}
    for name, build in (("bare", bare_step), ("ours", project_step)):
        setting.reset_peak()
        step = build(setting, recipe, stage)
        seconds[name] = seconds_of(setting, step, calls=10 if batch_size < 100 else 4)
        memory[name] = setting.peak_gib()
        del step
        gc.collect()  # a stage's modules, optimisers and steps refer to each other
    setting.add_row(
        {
            "stage": stage.name,
            "batch": batch_size,
            "precision": precision,
            "ms a step": 1000 * seconds["ours"],
            "bare ms": 1000 * seconds["bare"],
            "images/s": batch_size / seconds["ours"],
            "of bare": seconds["bare"] / seconds["ours"],
            "peak GiB": memory["ours"],
            "bare peak GiB": memory["bare"],
        }
    )


def project_step(
    setting: Setting, recipe: ResolvedRecipe, stage: StageRecipe
) -> Callable[[], None]:
    """Return a step as the trainer takes it: losses, gradients, optimisers."""
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision=recipe.mixed_precision, cpu=setting.device.type == "cpu"
    )
    network, classifier, optimizers = _modules(setting, stage)
    prepared = accelerator.prepare_model(network)
    batch, table = _batch(setting, recipe, stage, network)

    def step() -> None:
        losses = step_losses(
            prepared,
            classifier,
            batch,
            recipe=recipe,
            stage=stage,
            table=table,
            teacher=None,
            seed=0,
            accelerator=accelerator,
        )
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        accelerator.backward(torch.stack(list(losses.values())).sum())
        for optimizer in optimizers:
            optimizer.step()

    return step


def bare_step(setting: Setting, recipe: ResolvedRecipe, stage: StageRecipe) -> Callable[[], None]:
    """Return a minimal step of these modules: forward, cross-entropy, backward, optimisers."""
    network, classifier, optimizers = _modules(setting, stage)
    batch, _ = _batch(setting, recipe, stage, network)
    text = recipe.text_encoder
    token_ids = network.text_encoder.augment_tokens(
        batch.token_ids, word_dropout=text.word_dropout, position_shift=text.position_shift
    )
    classes: Tensor = torch.cat([batch.instance_ids, batch.instance_ids[batch.owners]])
    bf16 = recipe.mixed_precision == "bf16"

    def step() -> None:
        with torch.autocast(setting.device.type, torch.bfloat16, enabled=bf16):
            features = torch.cat(network(batch.images, token_ids))
            logits = torch.nn.functional.linear(features, classifier.weight)
        loss = torch.nn.functional.cross_entropy(logits.float(), classes)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    return step


def _modules(
    setting: Setting, stage: StageRecipe
) -> tuple[DualEncoder, InstanceClassifier, Optimizers]:
    network, classifier = copy.deepcopy(_drawn(setting))
    network, classifier = network.to(setting.device), classifier.to(setting.device)
    freeze(network, stage)
    network.train()
    return network, classifier, build_optimizers(stage.optimizer, network, classifier)


@cache
def _drawn(setting: Setting) -> tuple[DualEncoder, InstanceClassifier]:
    """Draw the weights once, since this takes longer than the measurement of a step."""
    torch.manual_seed(0)
    recipe = setting.paper(PRECISIONS[0], setting.batches[0])
    instances = 500 if setting.small else INSTANCES
    return build_network(recipe, WORDS), build_classifier(recipe, torch.arange(instances))


def _batch(
    setting: Setting, recipe: ResolvedRecipe, stage: StageRecipe, network: DualEncoder
) -> tuple[Batch, CaptionTable]:
    """Draw a batch of the stage: backbone features if its backbone is frozen, else pixels."""
    generator = torch.Generator().manual_seed(0)
    count, size = stage.batch_size, recipe.image_encoder.input_size
    if stage.backbone == "frozen":
        images = torch.randn(count, network.image_encoder.backbone_dim, generator=generator)
    else:
        pixels = (count, 3, size, size)
        images = torch.randint(0, 256, pixels, generator=generator, dtype=torch.uint8)
    positions = recipe.text_encoder.max_words
    lengths = torch.randint(6, 20, (count, 1), generator=generator)
    words = torch.randint(1, WORDS - 1, (count, positions), generator=generator)
    token_ids = (words * (torch.arange(positions) < lengths))[:, : int(lengths.max())]
    ids = torch.randperm(500, generator=generator)[:count]
    batch = Batch(images, token_ids, torch.arange(count), ids).to(setting.device)
    table = CaptionTable(token_ids.numpy().astype(np.int32), np.arange(count + 1), ids.numpy())
    return batch, table
