"""Mining hard captions (authors' code, "shift_hard"; paper, section 4.3).

For each batch, some hundred captions of other instances are drawn from the training set and
embedded by the current network. Each image takes the most similar one, at the position where it was
embedded.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dualpath.data.captions import CaptionTable
from dualpath.distributed.collectives import all_gather_rows, local_slice
from dualpath.errors import MiningError
from dualpath.models.dual_encoder import DualEncoder
from dualpath.models.layers import evaluation_mode
from dualpath.recipes.encoders import TextEncoderRecipe
from dualpath.training.batches import Batch


@torch.no_grad()
def mine_captions(
    network: DualEncoder,
    batch: Batch,
    table: CaptionTable,
    recipe: TextEncoderRecipe,
    candidates: int,
    *,
    relu: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return a hard caption for each image of a batch, and its instance.

    Draws from torch's global generator, which the trainer seeds for each step.

    Args:
        batch: n images; candidates belong to none of their instances.
        candidates: captions to choose from.
        relu: compare the features after the ReLU, as the losses do (``relu_before_loss``).

    Returns:
        Augmented token ids, (n, positions) int64, and instances, (n,) int64.

    Raises:
        MiningError: every instance is in the batch.
    """
    device = batch.token_ids.device
    of_captions = torch.from_numpy(table.instance_ids[table.owners]).to(device)
    allowed = (~torch.isin(of_captions, batch.instance_ids)).nonzero().squeeze(1)
    if not len(allowed):
        raise MiningError(
            "there are no captions to mine, since every instance is in the batch; lower the "
            "stage's batch_size, or choose other ranking.negatives"
        )
    drawn = allowed[torch.randperm(len(allowed), device=device)[:candidates]]
    token_ids = torch.from_numpy(table.tokens_of(drawn.cpu().numpy())).to(device)
    augmented = network.text_encoder.augment_tokens(
        token_ids, word_dropout=recipe.word_dropout, position_shift=recipe.position_shift
    )
    with evaluation_mode(network):
        own = augmented[local_slice(len(augmented))]
        image_features, text_features = network(batch.images, own)
    image_features = all_gather_rows(image_features, len(batch.instance_ids))
    text_features = all_gather_rows(text_features, len(augmented))
    hardest = most_similar(image_features, text_features, relu=relu)
    return augmented[hardest], of_captions[drawn[hardest]]


def most_similar(image_features: Tensor, text_features: Tensor, *, relu: bool = False) -> Tensor:
    """Return the caption with the highest cosine for each image, (n,) int64.

    Args:
        image_features: (n, dim).
        text_features: (m, dim).
        relu: compare the features after the ReLU.

    >>> most_similar(torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, -1.0], [1.0, 0.0]]))
    tensor([0])
    >>> most_similar(
    ...     torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 0.1], [1.0, -9.0]]), relu=True
    ... )
    tensor([1])
    """
    if relu:
        image_features, text_features = F.relu(image_features), F.relu(text_features)
    return (F.normalize(image_features) @ F.normalize(text_features).T).argmax(dim=1)
