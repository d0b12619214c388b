"""How epochs, batch sizes and learning rates follow the number of training images.

With k times the images of the recipe's ``reference_size``:

* epochs are divided by the root of k, so k times the images train about root k times as long; they
  stay between one and five times what the recipe says;
* batch sizes are multiplied by the root of k in steps of 32, between 32 and 1,024 and at most an
  eighth of the images: more images give harder negatives in larger batches;
* learning rates follow the root of the batch size, as the noise of an adaptive optimiser's step
  does.
"""

import math
from typing import TypeVar

from dualpath.recipes.schema import Recipe
from dualpath.recipes.stages import StageRecipe

_AnyRecipe = TypeVar("_AnyRecipe", bound=Recipe)
_SMALLEST, _LARGEST, _STEP = 32, 1024, 32


def scale_recipe(recipe: _AnyRecipe, images: int) -> _AnyRecipe:
    """Return a recipe for this number of training images; unchanged without ``reference_size``."""
    if recipe.reference_size is None:
        return recipe
    ratio = math.sqrt(images / recipe.reference_size)
    stages = tuple(_scale_stage(stage, ratio, images) for stage in recipe.stages)
    return recipe.model_copy(update={"stages": stages, "reference_size": None})


def _scale_stage(stage: StageRecipe, ratio: float, images: int) -> StageRecipe:
    epochs = min(5 * stage.epochs, max(1, round(stage.epochs / ratio)))
    batch = _STEP * round(stage.batch_size * ratio / _STEP)
    batch = max(_SMALLEST, min(batch, _LARGEST, _STEP * (images // (8 * _STEP))))
    lr = stage.optimizer.lr * math.sqrt(batch / stage.batch_size)
    return stage.model_copy(
        update={
            "epochs": epochs,
            "batch_size": batch,
            "validate_every": min(stage.validate_every, epochs),
            "optimizer": stage.optimizer.model_copy(update={"lr": lr}),
        }
    )
