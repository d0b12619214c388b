"""The image CNN: any timm backbone, and the head of the paper (section 3.1)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from timm.models import group_parameters
from timm.models.vgg import VGG
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dualpath.models.layers import head

BackboneMode = Literal["trained", "trained_running_norm", "frozen", "frozen_batch_norm"]


class BackboneError(ValueError):
    """A backbone that does not exist or whose weights cannot be had; the message says the mend."""


class ImageCNN(nn.Module):
    """Embed pictures: backbone, then linear, BN, ReLU, linear, BN.

    Args:
        backbone: a network with pooled features, (batch, 3, h, w) to (batch, backbone_dim).
        dim: width of the output.
        window: side of the last map at the input size, what its pooling covers when it slides.
        hidden: width between the two layers of the head.
        dropout: of that layer.
        parts: of the output, each with a head of its own.
        mean, std: of RGB in [0, 1], what the backbone was trained with.
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
        parts: int = 1,
    ) -> None:
        super().__init__()
        # On a CPU, convolutions are about twice as fast over channels-last memory.
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.backbone_dim = backbone_dim
        self.window = window
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1), persistent=False)
        self.head = head(backbone_dim, hidden, dim, dropout=dropout, parts=parts)
        self._mode: BackboneMode = "trained"
        self._momentum = {n: norm.momentum for n, norm in _batch_norms(self.backbone).items()}

    def forward(self, pictures: Tensor) -> Tensor:
        """Embed pixels, (batch, 3, h, w) uint8, or backbone features, (batch, backbone_dim).

        Returns:
            (batch, dim) features before the last ReLU.
        """
        features = pictures if pictures.ndim == 2 else self.backbone_features(pictures)
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
        """Embed pixels larger than the backbone's input, sliding over them (paper, section 5.1).

        The head sees what the backbone's pooling gives at every position; the features before the
        last ReLU are added.

        Args:
            pixels: (batch, 3, h, w) uint8, each side at least ``window`` positions of the map.

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
        """Return how many layers lie between each parameter of the backbone and its output.

        Layers are those that timm groups the network into.
        """
        network: Any = self.backbone
        if isinstance(network, nn.Sequential):  # with a grid
            network, prefix = network[0], "0."
        else:
            prefix = ""
        layers = group_parameters(network, network.group_matcher(coarse=False), reverse=True)
        last = max(layers.values())
        return {prefix + name: last - layer for name, layer in layers.items()}

    def set_backbone(self, mode: BackboneMode, *, last_layers: int | None = None) -> None:
        """Train the backbone or freeze it, and choose what its batch normalisation uses.

        Args:
            mode: one of those below.
            last_layers: of a backbone that is trained, train this many layers before its output.

        ``"trained"``: statistics of the batch. ``"trained_running_norm"``: the running ones, which
        stay as they are; a pretrained backbone then starts from the very features it had, however
        small the batch. ``"frozen"``: the running ones. ``"frozen_batch_norm"``: those of the batch
        while training, without updating the running ones, as the authors' code does.
        """
        self._mode = mode
        self.backbone.requires_grad_(self._is_trained)
        if self._is_trained and last_layers is not None:
            distances = self.layer_distances()
            for name, parameter in self.backbone.named_parameters():
                parameter.requires_grad_(distances[name] < last_layers)
        for name, norm in _batch_norms(self.backbone).items():
            norm.momentum = 0.0 if mode == "frozen_batch_norm" else self._momentum[name]
        self.train(self.training)

    def train(self, mode: bool = True) -> "ImageCNN":
        """Set training mode; what is frozen of the backbone stays in evaluation mode."""
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


class _Features(nn.Sequential):
    """A timm network, what pools its last map, and earlier maps averaged beside it."""

    def __init__(self, network: nn.Module, *pooling: nn.Module, states: Sequence[int]) -> None:
        super().__init__(network, *pooling)
        self.states = tuple(states)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, numbers of the last map and of each further state)."""
        return self.pooled(*self.maps(x))

    def maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return what the network itself gives (a map, for cells to be laid on) and the states."""
        network: Any = self[0]
        if not self.states:
            return network(x), []
        last, earlier = network.forward_intermediates(x, indices=list(self.states))
        return network.forward_head(last), earlier

    def pooled(self, last: Tensor, earlier: list[Tensor]) -> Tensor:
        """Pool them, and put them side by side."""
        pooling: list[Any] = list(self)[1:]
        for module in pooling:
            last = module(last)
        return torch.cat([last, *(one.mean(dim=(2, 3)) for one in earlier)], dim=1)


def backbone_preprocessing(
    name: str,
) -> tuple[int, tuple[float, float, float], tuple[float, float, float]]:
    """Return the input size (pixels), mean and std (of RGB in [0, 1]) a backbone expects."""
    if not timm.is_model(name.split(".")[0]):
        close = ", ".join(timm.list_models(f"*{name.split('.')[0][:6]}*")[:5])
        raise BackboneError(
            f"backbone '{name}' is no timm model" + (f"; near it: {close}" if close else "")
        )
    config = resolve_model_data_config(timm.create_model(name, pretrained=False, num_classes=0))
    return config["input_size"][-1], config["mean"], config["std"]


def create_backbone(
    name: str,
    *,
    pretrained: bool = False,
    weights: Path | None = None,
    grid: int = 1,
    states: Sequence[int] = (),
) -> tuple[nn.Module, int]:
    """Create a timm backbone that ends in pooled features, and tell how many numbers they are.

    Args:
        name: a timm model name.
        pretrained: load timm's weights from the hub.
        weights: load these instead (a file in timm's names, safetensors or torch).
        grid: cells a side over which the last map is averaged; 1: the backbone's own pooling.
        states: earlier maps (timm's ``forward_intermediates``; -1 is the last of them), the mean of
            each beside those of the cells.

    Raises:
        BackboneError: no such model, or its weights cannot be fetched or do not fit.
    """
    try:
        backbone = timm.create_model(
            name,
            pretrained=pretrained and weights is None,
            num_classes=0,
            **({} if grid == 1 else {"global_pool": ""}),
        )
        if weights is not None:
            # The weights of a classifier are left over; what the backbone needs must be there.
            absent = timm.models.load_checkpoint(backbone, str(weights), strict=False).missing_keys
            if absent:
                raise ValueError(f"{len(absent)} tensors missing, the first {absent[0]}")  # noqa: TRY301
        if isinstance(backbone, VGG):
            # The paper's feature is fc7 before its ReLU.
            backbone.pre_logits.act2 = nn.Identity()
    except Exception as error:  # timm and the hub raise whatever their layers below raise
        reason = " ".join(str(error).split())[:200]
        if weights is not None:
            message = f"{weights}: these weights do not fit {name} ({reason})"
        elif pretrained:
            message = (
                f"the weights of {name} cannot be fetched from the hub ({reason}); give a local "
                "file with --set image_encoder.weights=FILE"
            )
        else:
            message = f"backbone '{name}' cannot be made ({reason})"
        raise BackboneError(message) from error
    with torch.no_grad():
        size = resolve_model_data_config(backbone)["input_size"][-1]
        example = torch.zeros(1, 3, size, size)
        backbone.eval()
        if grid == 1 and not states:
            width = int(backbone(example).shape[1])
            return backbone.train(), width
        cells = (nn.AdaptiveAvgPool2d(grid), nn.Flatten()) if grid > 1 else ()
        backbone = _Features(backbone, *cells, states=states)
        try:
            last, earlier = backbone.maps(example)
        except (AssertionError, AttributeError, IndexError) as error:
            raise BackboneError(
                f"image_encoder.states: {list(states)} are no states of {name} ({error})"
            ) from error
        if grid > 1 and last.ndim != 4:
            raise BackboneError(
                f"{name} has no map of rows and columns to lay a grid on; set image_encoder.grid: 1"
            )
        features = backbone.pooled(last, earlier)
    return backbone.train(), int(features.shape[1])
