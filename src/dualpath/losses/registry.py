"""The losses over the pairs of a batch, by the key of a stage that switches them on.

A new loss is a module of this package, a line here, and a line in ``StageRecipe``.
"""

from collections.abc import Callable

from torch import Tensor

from dualpath.losses.contrastive import contrastive_loss

# Called with image_features (n, dim), text_features (m, dim), owners (m,), instance_ids (n,) and,
# as keyword arguments, the options of the recipe except ``weight``; returns a scalar.
PairLoss = Callable[..., Tensor]

PAIR_LOSSES: dict[str, PairLoss] = {
    "contrastive": contrastive_loss,
}
