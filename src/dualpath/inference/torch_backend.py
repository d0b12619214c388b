"""The one module of this package that imports torch; the others import it when they call it."""

from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dualpath.errors import BackboneError, BundleError, ExportError, TextEncoderError
from dualpath.inference.runtimes import EncoderName, Engine, ExportedEncoder, open_engine
from dualpath.inference.weights import WEIGHTS_FORMAT
from dualpath.models.dual_encoder import DualEncoder, build_network
from dualpath.models.fingerprint import fingerprint
from dualpath.models.layers import evaluation_mode
from dualpath.models.onnx import OnnxSource, image_source, save_onnx, text_source
from dualpath.recipes.schema import ResolvedRecipe
from dualpath.types import Pixels, Vectors
from dualpath.utils.files import atomic_path

_LOWEST_COSINE = 0.9999  # of the features of ONNX Runtime with those of torch
_NO_DIFFERENCE = 1e-6
_FEATURE_CHUNK = 2048  # cached features in one pass through the head


class TorchBackend:
    """A network on a device, with numpy arrays in and out.

    Attributes:
        network: the torch module.
        device: where it computes.
    """

    def __init__(
        self, network: DualEncoder, recipe: ResolvedRecipe, device: torch.device | str | None
    ) -> None:
        self.network = network
        self._slides = recipe.image_encoder.test_size is not None
        self._average = recipe.text_encoder.position_shift
        self.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def to(self, device: torch.device | str) -> None:
        """Move the network to a device."""
        self.device = torch.device(device)
        self.network.to(self.device)

    def embed_images(self, batch: Pixels) -> Vectors:
        """Embed images as unit vectors, (n, views, 3, h, w) uint8 to (n, dim)."""
        embed = self.network.embed_sliding if self._slides else self.network.embed_images
        views = torch.from_numpy(batch).to(self.device).unbind(1)
        with evaluation_mode(self.network):
            return _to_numpy(embed(*views))

    def embed_tokens(self, token_ids: npt.NDArray[Any]) -> Vectors:
        """Embed texts as unit vectors, (n, words) int64, padded with 0, to (n, dim)."""
        batch = torch.from_numpy(token_ids).to(self.device)
        with evaluation_mode(self.network):
            return _to_numpy(self.network.embed_texts(batch, average=self._average))

    def embed_text_features(self, features: Vectors) -> Vectors:
        """Embed cached features of a sentence encoder, (n, feature_dim), as unit vectors."""
        chunks = torch.split(torch.from_numpy(features), _FEATURE_CHUNK)
        with evaluation_mode(self.network):
            embedded = [self.network.embed_texts(chunk.to(self.device)) for chunk in chunks]
        return _to_numpy(torch.cat(embedded))

    def fingerprint(self) -> str:
        """Return a hash of all weights, 32 hexadecimal digits."""
        return fingerprint(self.network)

    def count_parameters(self) -> dict[str, int]:
        """Return the number of parameters of each encoder."""
        return {
            name: sum(parameter.numel() for parameter in encoder.parameters())
            for name, encoder in self.network.named_children()
        }


def save_weights(network: DualEncoder, path: Path) -> None:
    """Write the weights of a network, whole or not at all; raises ``OSError`` if it fails."""
    state = {name: t.contiguous().cpu() for name, t in network.state_dict().items()}
    metadata = {"format": f"{WEIGHTS_FORMAT} {fingerprint(network)}"}
    try:
        with atomic_path(path) as temporary:
            save_file(state, temporary, metadata=metadata)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def load_network(
    recipe: ResolvedRecipe, num_embeddings: int, folder: Path, weights: Path
) -> DualEncoder:
    """Build the network of a bundle in evaluation mode and load its weights.

    Raises:
        BundleError: the network cannot be built, or the weights are damaged or do not fit.
    """
    try:
        network = build_network(recipe, num_embeddings, folder=folder)
    except (BackboneError, TextEncoderError) as error:
        raise BundleError(f"{folder}: {error}") from error
    try:
        with safe_open(weights, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{weights}: damaged or truncated ({error}); copy it again") from error
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise BundleError(
            f"{weights}: does not fit the recipe beside it; were files of two bundles mixed?"
        ) from error
    return network.eval()


def save_onnx_encoders(
    network: DualEncoder, recipe: ResolvedRecipe, folder: Path
) -> list[ExportedEncoder]:
    """Write both encoders as ONNX in single precision, and compare them with torch's.

    Returns:
        What ``runtimes.json`` lists about them.

    Raises:
        ExportError: ONNX Runtime computes other features than torch.
        OSError: a file cannot be written.
    """
    text, positions = text_source(network, recipe)
    sources: dict[EncoderName, OnnxSource] = {
        "image_encoder": image_source(network, recipe),
        "text_encoder": text,
    }
    digest = fingerprint(network)  # reads all weights
    written = []
    for encoder, source in sources.items():
        path = folder / f"{encoder}.fp32.onnx"
        with evaluation_mode(network):
            with atomic_path(path) as temporary:
                save_onnx(source, temporary, name=path.name)
            cosine = _lowest_cosine(source, open_engine(path))
        if cosine < _LOWEST_COSINE:
            path.unlink()
            raise ExportError(
                f"{path}: ONNX Runtime computes other features than torch (cosine {cosine:.4f})"
            )
        written.append(
            ExportedEncoder(
                "onnxruntime",
                "fp32",
                path.name,
                digest,
                cosine,
                speedup=None,
                encoder=encoder,
                placed_positions=positions if encoder == "text_encoder" else None,
            )
        )
    return written


def _lowest_cosine(source: OnnxSource, engine: Engine) -> float:
    """Return the lowest cosine between the features of an engine and of torch."""
    module, example, dynamic_dims = source
    device = next(module.parameters()).device
    cosines = []
    for batch in (example, example[:1], example.repeat(3, *[1] * (example.ndim - 1))):
        inputs = [batch]
        if 1 in dynamic_dims:  # captions of other lengths, one of them empty
            inputs = [batch[:, :length] for length in range(1, batch.shape[1] + 1)]
            inputs += [batch.repeat(1, 3), torch.zeros_like(batch)]
        for one in inputs:
            with torch.no_grad():
                expected = module(one.to(device)).float().cpu()
            features = torch.from_numpy(engine(one.numpy()))
            similarity = torch.nn.functional.cosine_similarity(features, expected)
            # Features of zero have no direction.
            equal = (features - expected).abs().amax(dim=1) < _NO_DIFFERENCE
            cosines.append(float(similarity.where(~equal, 1.0).min()))
    return min(cosines)


def _to_numpy(vectors: torch.Tensor) -> Vectors:
    array: Vectors = vectors.float().cpu().numpy()
    return array
