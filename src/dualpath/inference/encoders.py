"""The two encoders of a model, run by engines of its bundle on a CPU, or by torch."""

import logging
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from dualpath.errors import BundleError
from dualpath.inference.bundle import WEIGHTS, add_onnx_encoders
from dualpath.inference.placements import place_everywhere
from dualpath.inference.runtimes import (
    EncoderName,
    Engine,
    ExportedEncoder,
    has_gpu,
    open_engine,
    select_exports,
)
from dualpath.inference.weights import WeightsInfo
from dualpath.recipes.schema import ResolvedRecipe
from dualpath.types import IntArray, Pixels, Vectors
from dualpath.utils.extras import needs_extra

if TYPE_CHECKING:
    import torch

    from dualpath.inference.torch_backend import TorchBackend
    from dualpath.models.dual_encoder import DualEncoder

_FEW_TEXTS = 16  # of more texts, a GPU is faster than an engine
_PLACED_ROWS = 512  # placements in one run of an engine

RuntimeChoice = Literal["fastest", "torch"]


class Encoders:
    """Turns pixels and token ids into unit vectors.

    Engines and torch are loaded when they are first used.

    Args:
        network: the torch module. None: it is loaded from the folder when it is needed.
        device: of the torch module.
        folder: of the bundle, with the files of ``exported``.
        exported: the exported encoders that are used instead of torch; also an attribute.
    """

    def __init__(
        self,
        recipe: ResolvedRecipe,
        *,
        network: "DualEncoder | None" = None,
        device: "torch.device | str | None" = None,
        folder: Path = Path(),
        exported: dict[EncoderName, ExportedEncoder] | None = None,
    ) -> None:
        self._recipe = recipe
        self._network = network
        self._device = device
        self._folder = folder
        self._torch: TorchBackend | None = None
        self._engines: dict[EncoderName, Engine] = {}
        self._lock = threading.RLock()
        self._num_embeddings = 0
        self._weights: WeightsInfo | None = None
        self._on_gpu = False
        self.exported = exported or {}

    @classmethod
    def from_bundle(
        cls,
        folder: Path,
        recipe: ResolvedRecipe,
        num_embeddings: int,
        weights: WeightsInfo,
        *,
        device: "torch.device | str | None",
        runtime: RuntimeChoice,
    ) -> "Encoders":
        """Choose what runs the encoders of a bundle.

        Args:
            num_embeddings: rows of the word table, padding included.
            device: None: images and many texts on a GPU, if there is one and torch is installed.

        Raises:
            BundleError: there is neither an engine nor torch, or an export is of other weights.
        """
        encoders = cls(recipe, device=device, folder=folder)
        encoders._num_embeddings, encoders._weights = num_embeddings, weights
        encoders._on_gpu = device is None and runtime == "fastest" and has_gpu()
        if runtime == "fastest" and (device is None or str(device) == "cpu"):
            encoders.exported = encoders._select_exports(weights.fingerprint)
        return encoders

    @property
    def backend(self) -> "TorchBackend":
        """The network in torch.

        Raises:
            MissingPackageError: torch is not installed.
            BundleError: the network cannot be built, or the weights do not fit.
        """
        with self._lock:
            if self._torch is None:
                with needs_extra("train", "this"):
                    from dualpath.inference.torch_backend import TorchBackend, load_network
                network = self._network or load_network(
                    self._recipe, self._num_embeddings, self._folder, self._folder / WEIGHTS
                )
                self._torch = TorchBackend(network, self._recipe, self._device)
            return self._torch

    @property
    def fingerprint(self) -> str:
        """A hash of the weights, 32 hexadecimal digits."""
        if self._weights is not None and self._torch is None:
            return self._weights.fingerprint
        return self.backend.fingerprint()

    def count_parameters(self) -> dict[str, int]:
        """Return the number of parameters of ``image_encoder`` and ``text_encoder``."""
        if self._weights is not None and self._torch is None:
            return dict(self._weights.parameters)
        return self.backend.count_parameters()

    def to(self, device: "torch.device | str") -> None:
        """Compute with torch on a device from now on."""
        self.exported = {}
        self._on_gpu = False
        self.backend.to(device)

    def embed_images(self, batch: Pixels) -> Vectors:
        """Embed images of one shape, (n, views, 3, h, w) uint8 to (n, dim)."""
        if self._on_gpu or "image_encoder" not in self.exported:
            return self.backend.embed_images(batch)
        features = self._run("image_encoder", batch.reshape(-1, *batch.shape[2:]))
        return _normalise(features.reshape(*batch.shape[:2], -1).sum(axis=1))

    def uses_text_engine(self, count: int) -> bool:
        """Return whether an engine embeds this number of texts."""
        return "text_encoder" in self.exported and not (self._on_gpu and count > _FEW_TEXTS)

    def embed_tokens(self, token_ids: IntArray, *, engine: bool) -> Vectors:
        """Embed texts, (n, words) int64, padded with 0, to (n, dim)."""
        if not engine:
            return self.backend.embed_tokens(token_ids)
        positions = self.exported["text_encoder"].placed_positions
        if positions is None:
            return _normalise(self._run("text_encoder", token_ids))
        placed, owners = place_everywhere(token_ids, positions)
        chunks = np.split(placed, range(_PLACED_ROWS, len(placed), _PLACED_ROWS))
        features = np.concatenate([self._run("text_encoder", chunk) for chunk in chunks])
        first = np.flatnonzero(np.diff(owners, prepend=-1))
        return _normalise(np.add.reduceat(features, first, axis=0))

    def _run(self, encoder: EncoderName, batch: npt.NDArray[Any]) -> Vectors:
        """Return the features of an engine, (n, dim)."""
        file = self._folder / self.exported[encoder].file
        with self._lock:
            if encoder not in self._engines:
                self._engines[encoder] = open_engine(file)
        features = self._engines[encoder](batch)
        if features.shape[1] != self._recipe.dim:
            raise BundleError(
                f"{file}: does not fit the recipe beside it; were files of two bundles mixed?"
            )
        return features

    def _select_exports(self, fingerprint: str) -> dict[EncoderName, ExportedEncoder]:
        """Return the exported encoders to use; a bundle of an older version gets them now."""
        exported = select_exports(self._folder, fingerprint)
        if len(exported) == 2:
            return exported
        if find_spec("torch") is None:
            raise BundleError(
                f"{self._folder}: has no ONNX encoders, since an older version wrote it; load it "
                "once where torch is installed: pip install 'dualpath[train]'"
            )
        try:
            add_onnx_encoders(self._folder, self.backend.network, self._recipe)
        except OSError as error:
            logging.getLogger(__name__).warning(
                "%s: the ONNX encoders cannot be written (%s); torch is used", self._folder, error
            )
            return exported
        return select_exports(self._folder, fingerprint)


def _normalise(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = vectors / np.maximum(lengths, 1e-12)
    return unit
