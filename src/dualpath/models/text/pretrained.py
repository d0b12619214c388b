"""What text encoders on a pretrained backbone share: a head, freezing, features to cache."""

from typing import Any, Self

from torch import Tensor, nn

from dualpath.models.text.base import TextEncoder
from dualpath.recipes.stages import ParameterGroup, StageRecipe


class PretrainedTextEncoder(TextEncoder):
    """A pretrained backbone and a head.

    Attributes:
        backbone: computes the features; subclasses say how in :meth:`backbone_features`.
        head: features, (batch, feature_dim), to embeddings, (batch, dim).
    """

    backbone: Any
    head: nn.Module
    _frozen = False

    def forward(self, token_ids: Tensor) -> Tensor:
        """Return features before the last ReLU, (batch, dim).

        Args:
            token_ids: (batch, positions) int64, ids of the backbone's vocabulary plus one (0 is
                padding); or cached features, (batch, feature_dim) float32.
        """
        cached = token_ids.is_floating_point()
        embedded: Tensor = self.head(token_ids if cached else self.backbone_features(token_ids))
        return embedded

    def augment_tokens(
        self,
        token_ids: Tensor,
        *,
        word_dropout: float,  # noqa: ARG002
        position_shift: bool,  # noqa: ARG002
    ) -> Tensor:
        """Return the tokens unchanged."""
        return token_ids

    def freeze(self, stage: StageRecipe) -> None:
        """Train the backbone or freeze it, as the stage says."""
        self._frozen = stage.sentence_encoder == "frozen"
        self.backbone.requires_grad_(not self._frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set training mode; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self._frozen:
            self.backbone.eval()
        return self

    def parameter_groups(self) -> dict[ParameterGroup, list[nn.Parameter]]:
        return {"text_backbone": list(self.backbone.parameters())}
