"""Mining hard captions (authors' code, "shift_hard"; paper, section 4.3).

For each batch some hundred captions of other instances are drawn from the training set and embedded
by the network as it is; each picture takes the one that is most like it. A caption stays where it
was placed when it was chosen.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dualpath.data.pairs import Batch, CaptionTable
from dualpath.models.dual_path import DualPathNetwork
from dualpath.models.layers import evaluating
from dualpath.processes import gather_shares, share
from dualpath.recipe import TextEncoderRecipe
from dualpath.training.stages import augment_words


class MiningError(ValueError):
    """A batch that leaves nothing to mine."""


@torch.no_grad()
def mine_captions(
    network: DualPathNetwork,
    batch: Batch,
    table: CaptionTable,
    recipe: TextEncoderRecipe,
    candidates: int,
) -> tuple[Tensor, Tensor]:
    """Return a hard caption for each picture, placed, and its instance.

    Draws from torch's own generator, which the trainer seeds for each step.

    Args:
        batch: n pictures; candidates are of none of their instances.
        candidates: captions to choose from.

    Returns:
        (n, positions) int64 token ids, and (n,) int64 instances.

    Raises:
        MiningError: every instance is in the batch.
    """
    device = batch.token_ids.device
    of_captions = torch.from_numpy(table.instance_ids[table.owners]).to(device)
    allowed = (~torch.isin(of_captions, batch.instance_ids)).nonzero().squeeze(1)
    if not len(allowed):
        raise MiningError(
            "there are no captions to mine: every instance is in the batch; lower the stage's "
            "batch_size, or choose other ranking.negatives"
        )
    drawn = allowed[torch.randperm(len(allowed), device=device)[:candidates]]
    token_ids = table.tokens_of(drawn.cpu().numpy())
    placed = augment_words(network.text_encoder, torch.from_numpy(token_ids).to(device), recipe)
    with evaluating(network):
        image_features, text_features = network(batch.pictures, placed[share(len(placed))])
    image_features = gather_shares(image_features, len(batch.instance_ids))
    text_features = gather_shares(text_features, len(placed))
    hardest = (F.normalize(image_features) @ F.normalize(text_features).T).argmax(dim=1)
    return placed[hardest], of_captions[drawn[hardest]]
