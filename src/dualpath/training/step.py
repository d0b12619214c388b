"""One training step: from a batch to its losses."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from dualpath.data.captions import CaptionTable
from dualpath.distributed.collectives import all_gather_rows, local_slice, rank, world_size
from dualpath.losses.distillation import distillation_loss
from dualpath.losses.ensemble import mean_over_heads
from dualpath.losses.instance import InstanceClassifier
from dualpath.recipes.schema import Recipe
from dualpath.recipes.stages import StageRecipe
from dualpath.training.batches import Batch
from dualpath.training.mining import mine_captions
from dualpath.training.objective import MinedCaptions, stage_losses
from dualpath.training.teacher import Teacher


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

    With several processes, each embeds its share of the images and captions, and all of them
    compute the losses of the whole batch.

    Args:
        network: a ``DualEncoder`` as prepared by accelerate.
        table: the training captions, from which hard ones may be mined.
        seed: of everything drawn at random.
    """
    torch.manual_seed(seed)
    plain: Any = accelerator.unwrap_model(network)

    def augment(token_ids: Tensor) -> Tensor:
        text = recipe.text_encoder
        augmented: Tensor = plain.text_encoder.augment_tokens(
            token_ids, word_dropout=text.word_dropout, position_shift=text.position_shift
        )
        return augmented

    token_ids = augment(batch.token_ids)
    mined_ids = None
    if stage.ranking and stage.ranking.negatives == "mined":
        mined_tokens, mined_ids = mine_captions(
            plain,
            batch,
            table,
            recipe.text_encoder,
            stage.ranking.candidates,
            relu=recipe.relu_before_loss,
        )
        token_ids = _stack(token_ids, mined_tokens)
    unpaired = teacher.draw(token_ids.device) if teacher else None
    if unpaired is not None:
        token_ids = _stack(token_ids, augment(unpaired[0]))
    if world_size() > 1:  # each process draws its own dropout masks
        torch.manual_seed(seed + 1 + rank())
    with accelerator.autocast():
        own = token_ids[local_slice(len(token_ids))]
        image_features, text_features = network(batch.images, own)
    image_features = all_gather_rows(image_features.float(), len(batch.instance_ids))
    text_features = all_gather_rows(text_features.float(), len(token_ids))
    if world_size() > 1:  # from here on all processes draw the same
        torch.manual_seed(seed)
    if recipe.relu_before_loss:
        image_features, text_features = F.relu(image_features), F.relu(text_features)

    def classify(*arguments: Any, **options: Any) -> Any:
        with accelerator.autocast():  # the largest matrix product after those of the network
            return classifier(*arguments, **options)

    captions = len(batch.owners)
    losses = stage_losses(
        stage,
        classify,
        image_features,
        text_features[:captions],
        batch.owners,
        batch.instance_ids,
        None if mined_ids is None else MinedCaptions(text_features[captions:], mined_ids),
        num_heads=recipe.num_heads,
    )
    if stage.distillation is not None and batch.targets is not None:
        targets = [batch.targets] if unpaired is None else [batch.targets, unpaired[1]]
        losses["distillation"] = stage.distillation.weight * mean_over_heads(
            distillation_loss, recipe.num_heads, text_features, torch.cat(targets)
        )
    return losses


def _stack(first: Tensor, second: Tensor) -> Tensor:
    """Stack token ids, (m, positions) and (n, positions), padded to the same length."""
    width = max(first.shape[1], second.shape[1])
    return torch.cat([F.pad(ids, (0, width - ids.shape[1])) for ids in (first, second)])
