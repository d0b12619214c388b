"""The image encoder: a backbone and the head of the paper (section 3.1)."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.models import group_parameters
from timm.models.vgg import VGG
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dualpath.models.layers import projection_head

BackboneMode = Literal["trained", "trained_running_norm", "frozen", "frozen_batch_norm"]


class ImageEncoder(nn.Module):
    """Embed images: backbone, then linear, BN, ReLU, linear, BN.

    Args:
        backbone: a network with pooled features, (batch, 3, h, w) to (batch, backbone_dim).
        backbone_dim: number of these features.
        dim: length of an embedding.
        window: side of the last feature map at the input size: the window of the sliding network.
        hidden: width of the head's hidden layer.
        mean, std: of RGB in [0, 1], as in the training of the backbone.
        dropout: dropout rate of the head's hidden layer.
        num_heads: equal parts of the embedding, each with a head of its own.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        backbone_dim: int,
        dim: int,
        *,
        window: int,
        hidden: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        dropout: float = 0.0,
        num_heads: int = 1,
    ) -> None:
        super().__init__()
        # On a CPU, convolutions are about twice as fast over channels-last memory.
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.backbone_dim = backbone_dim
        self.window = window
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1), persistent=False)
        self.head = projection_head(backbone_dim, hidden, dim, dropout=dropout, num_heads=num_heads)
        self._mode: BackboneMode = "trained"
        self._momentum = {n: norm.momentum for n, norm in _batch_norms(self.backbone).items()}

    def forward(self, images: Tensor) -> Tensor:
        """Embed pixels, (batch, 3, h, w) uint8, or backbone features, (batch, backbone_dim).

        Returns:
            (batch, dim) features before the last ReLU.
        """
        features = images if images.ndim == 2 else self.backbone_features(images)
        embedded: Tensor = self.head(features)
        return embedded

    def backbone_features(self, pixels: Tensor) -> Tensor:
        """Return the pooled features of the backbone, (batch, backbone_dim).

        Args:
            pixels: (batch, 3, h, w) uint8, RGB.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._is_trained):
            features: Tensor = self.backbone(self._normalised(pixels))
        return features

    def sliding_forward(self, pixels: Tensor) -> Tensor:
        """Embed images larger than the backbone's input by sliding over them (paper, section 5.1).

        The head is applied to the pooled features of every position, and the results are added.

        Args:
            pixels: (batch, 3, h, w) uint8; each side covers at least ``window`` cells of the map.

        Returns:
            (batch, dim).
        """
        backbone: Any = self.backbone
        maps = backbone.forward_features(self._normalised(pixels))
        if isinstance(backbone, VGG):
            maps = backbone.pre_logits(maps)
        else:
            maps = F.avg_pool2d(maps, self.window, stride=1)
        at_positions = maps.flatten(2).transpose(1, 2)  # (batch, positions, backbone_dim)
        embedded: Tensor = self.head(at_positions.flatten(0, 1))
        return embedded.view(*at_positions.shape[:2], -1).sum(dim=1)

    def _normalised(self, pixels: Tensor) -> Tensor:
        normalised = (pixels.float() - self.mean) / self.std
        return normalised.contiguous(memory_format=torch.channels_last)

    def layer_distances(self) -> dict[str, int]:
        """Return the number of layers between each parameter of the backbone and its output.

        Layers are timm's groups of parameters.
        """
        network: Any = self.backbone
        if isinstance(network, nn.Sequential):  # with a grid
            network, prefix = network[0], "0."
        else:
            prefix = ""
        layers = group_parameters(network, network.group_matcher(coarse=False), reverse=True)
        last = max(layers.values())
        return {prefix + name: last - layer for name, layer in layers.items()}

    def set_backbone(
        self,
        mode: BackboneMode,
        *,
        last_layers: int | None = None,
        running_rate: float | None = None,
    ) -> None:
        """Train the backbone or freeze it, and choose the statistics of its batch normalisation.

        Args:
            mode: ``"trained"``: statistics of the batch. ``"trained_running_norm"``: the running
                statistics, unchanged, so that a pretrained backbone starts from its own features
                however small the batch. ``"frozen"``: the running statistics.
                ``"frozen_batch_norm"``: statistics of the batch in training, without updating the
                running ones (authors' code).
            last_layers: train only this many layers of the backbone, counted from its output.
            running_rate: share of a batch in the running statistics that ``"trained"`` updates.
                None: the backbone's own.
        """
        self._mode = mode
        self.backbone.requires_grad_(self._is_trained)
        if self._is_trained and last_layers is not None:
            distances = self.layer_distances()
            for name, parameter in self.backbone.named_parameters():
                parameter.requires_grad_(distances[name] < last_layers)
        for name, norm in _batch_norms(self.backbone).items():
            own = self._momentum[name] if running_rate is None else running_rate
            norm.momentum = 0.0 if mode == "frozen_batch_norm" else own
        self.train(self.training)

    def train(self, mode: bool = True) -> "ImageEncoder":
        """Set training mode; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self._mode == "frozen":
            self.backbone.eval()
        if self._mode == "trained_running_norm":
            for norm in _batch_norms(self.backbone).values():
                norm.eval()
        return self

    @property
    def _is_trained(self) -> bool:
        return self._mode in ("trained", "trained_running_norm")


def _batch_norms(module: nn.Module) -> dict[str, _BatchNorm]:
    return {name: m for name, m in module.named_modules() if isinstance(m, _BatchNorm)}
