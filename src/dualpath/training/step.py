"""One step: from a batch to its losses, whatever the stage asks for."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from dualpath.data.pairs import Batch, CaptionTable
from dualpath.losses.distillation import distillation_loss
from dualpath.losses.instance import InstanceClassifier
from dualpath.losses.parts import mean_over_parts
from dualpath.processes import gather_shares, processes, rank, share
from dualpath.recipe import Recipe, StageRecipe
from dualpath.training.distillation import Teacher
from dualpath.training.mining import mine_captions
from dualpath.training.stages import Mined, augment_words, stage_losses


def step_losses(
    network: nn.Module,
    classifier: InstanceClassifier,
    batch: Batch,
    *,
    recipe: Recipe,
    stage: StageRecipe,
    table: CaptionTable,
    teacher: Teacher | None,
    seed: int,
    accelerator: Accelerator,
) -> dict[str, Tensor]:
    """Return the weighted losses of a batch by name.

    Where several processes train, each embeds its share of the pictures and sentences, and all of
    them compute the losses of the whole batch.

    Args:
        network: a ``DualPathNetwork``, as accelerate has prepared it.
        table: the training captions, of which hard ones may be mined.
        seed: of everything that is drawn.
    """
    torch.manual_seed(seed)
    plain: Any = accelerator.unwrap_model(network)
    token_ids = augment_words(plain.text_encoder, batch.token_ids, recipe.text_encoder)
    mined_ids = None
    if stage.ranking and stage.ranking.negatives == "mined":
        mined_tokens, mined_ids = mine_captions(
            plain, batch, table, recipe.text_encoder, stage.ranking.candidates
        )
        token_ids = _stacked(token_ids, mined_tokens)
    unpaired = teacher.draw(token_ids.device) if teacher else None
    if unpaired is not None:
        words = augment_words(plain.text_encoder, unpaired[0], recipe.text_encoder)
        token_ids = _stacked(token_ids, words)
    if processes() > 1:  # what is dropped in the shares of a batch is drawn for each of them
        torch.manual_seed(seed + 1 + rank())
    with accelerator.autocast():
        image_features, text_features = network(batch.pictures, token_ids[share(len(token_ids))])
    image_features = gather_shares(image_features.float(), len(batch.instance_ids))
    text_features = gather_shares(text_features.float(), len(token_ids))
    if processes() > 1:  # and from here on all do the same
        torch.manual_seed(seed)
    if recipe.relu:
        image_features, text_features = F.relu(image_features), F.relu(text_features)

    def classify(*arguments: Any, **options: Any) -> Any:
        with accelerator.autocast():  # the largest product of a step, after those of the network
            return classifier(*arguments, **options)

    captions = len(batch.owners)
    losses = stage_losses(
        stage,
        classify,
        image_features,
        text_features[:captions],
        batch.owners,
        batch.instance_ids,
        None if mined_ids is None else Mined(text_features[captions:], mined_ids),
        parts=recipe.parts,
    )
    if stage.distillation is not None:
        assert batch.targets is not None
        targets = [batch.targets] if unpaired is None else [batch.targets, unpaired[1]]
        losses["distillation"] = stage.distillation.weight * mean_over_parts(
            distillation_loss, recipe.parts, text_features, torch.cat(targets)
        )
    return losses


def _stacked(first: Tensor, second: Tensor) -> Tensor:
    """Stack placed sentences, (m, positions) and (n, positions), padded to the same length."""
    width = max(first.shape[1], second.shape[1])
    return torch.cat([F.pad(ids, (0, width - ids.shape[1])) for ids in (first, second)])
