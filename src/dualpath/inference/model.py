"""The trained model: images and texts in, unit vectors out."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from dualpath.data.images import decode_image
from dualpath.data.original_transform import OriginalTransform
from dualpath.data.scan import scan_images
from dualpath.data.tokenizer import Tokenizer
from dualpath.data.transforms import ImageTransform, decode_size, fixed_views
from dualpath.data.vector_store import VectorStore
from dualpath.inference.bundle import read_bundle, write_bundle
from dualpath.inference.calibration import Calibration
from dualpath.inference.encoders import Encoders, RuntimeChoice
from dualpath.inference.pretrained import find_model
from dualpath.inference.runtimes import EncoderName, ExportedEncoder
from dualpath.inference.similarity import Similarity
from dualpath.recipes.schema import ResolvedRecipe
from dualpath.types import IntArray, Mask, Pixels, Progress, Vectors, no_progress
from dualpath.utils.memory import tune_malloc

if TYPE_CHECKING:
    import torch

    from dualpath.models.dual_encoder import DualEncoder

_STORE_EVERY = 512  # images between two writes to the cache
_SORTED_BATCHES = 16  # texts are sorted by length within this many batches


class DualPath:
    """An image encoder and a text encoder into one space.

    A loaded model needs no torch on a CPU: exported encoders in its bundle compute the vectors.

    Attributes:
        tokenizer: of the text encoder.
        recipe: of the training.
        metrics: of the training, among them ``validation``.
        source: the folder or hub id that the model was loaded from. None after training.

    Example::

        model = dualpath.load("bundle")
        scores = model.embed_texts(["a red bus"]) @ model.embed_images(["bus.jpg"]).T
    """

    def __init__(
        self,
        encoders: "Encoders | DualEncoder",
        tokenizer: Tokenizer,
        recipe: ResolvedRecipe,
        metrics: dict[str, Any] | None = None,
        *,
        device: "torch.device | str | None" = None,
        source: str | None = None,
    ) -> None:
        tune_malloc()
        if not isinstance(encoders, Encoders):
            encoders = Encoders(recipe, network=encoders, device=device)
        self._encoders = encoders
        self.tokenizer = tokenizer
        self.recipe = recipe
        self.metrics = metrics or {}
        self.source = source

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: "torch.device | str | None" = None,
        runtime: RuntimeChoice = "fastest",
    ) -> "DualPath":
        """Load a bundle, or a pretrained image-text model such as CLIP or SigLIP.

        A pretrained model is converted to a bundle when it is first loaded, which needs the extra
        ``pretrained`` and takes minutes. The cache holds the bundle, so that later calls are fast
        and need neither torch nor a connection.

        Args:
            source: the folder of a bundle or of a pretrained model; an id of the Hugging Face hub
                such as ``user/name``; or open_clip's name of a model (``hf-hub:user/name``,
                ``local-dir:folder``).
            device: such as ``"cpu"`` or ``"cuda"``. None: a GPU if there is one and torch is
                installed. Single texts are embedded on the CPU all the same.
            runtime: ``fastest``: on a CPU, use the fastest exported encoders whose runtime is
                installed. ``torch``: use torch.

        Raises:
            BundleError: the bundle does not exist, or one of its files is missing or damaged.
        """
        folder = find_model(source)
        source = str(folder.resolve()) if Path(source).is_dir() else str(source)
        tokenizer, recipe, metrics, weights = read_bundle(folder)
        encoders = Encoders.from_bundle(
            folder, recipe, tokenizer.num_embeddings, weights, device=device, runtime=runtime
        )
        return cls(encoders, tokenizer, recipe, metrics, source=source)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a bundle, with both encoders as ONNX. Needs torch.

        Raises:
            BundleError: a file cannot be written.
            MissingPackageError: torch is not installed.
        """
        write_bundle(Path(folder), self.network, self.tokenizer, self.recipe, self.metrics)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = True,
        token: str | None = None,
        commit_message: str = "Add DualPath bundle",
    ) -> str:
        """Upload the model to the Hugging Face hub.

        A model that was loaded from a folder is uploaded with its exported encoders.

        Args:
            repo_id: such as ``user/name``; created if it does not exist.
            private: whether a new repository is private.
            token: of the hub. None: the one stored by ``hf auth login``.

        Returns:
            The address of the commit.
        """
        from dualpath.inference.hub import push_to_hub

        return push_to_hub(
            self, repo_id, private=private, token=token, commit_message=commit_message
        )

    @property
    def network(self) -> "DualEncoder":
        """The torch module. torch and the weights are loaded when it is first used."""
        return self._encoders.backend.network

    @property
    def exported(self) -> dict[EncoderName, ExportedEncoder]:
        """The exported encoders that are used instead of torch."""
        return self._encoders.exported

    @property
    def device(self) -> "torch.device":
        """Where torch computes."""
        return self._encoders.backend.device

    def to(self, device: "torch.device | str") -> "DualPath":
        """Compute with torch on a device from now on; returns the model."""
        self._encoders.to(device)
        return self

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.recipe.dim

    @property
    def calibration(self) -> Calibration | None:
        """The curve from cosine to probability, fitted on validation; None without validation."""
        fitted = self.metrics.get("validation", {}).get("calibration")
        return None if fitted is None else Calibration.from_metrics(fitted)

    @property
    def similarity(self) -> Similarity | None:
        """Scale and bias from cosines to logits, of a pretrained image-text model; else None."""
        return Similarity.from_metrics(self.metrics)

    @property
    def fingerprint(self) -> str:
        """A hash of the weights, 32 hexadecimal digits.

        Embeddings of models with different fingerprints cannot be compared.
        """
        return self._encoders.fingerprint

    def count_parameters(self) -> dict[str, int]:
        """Return the number of parameters of ``image_encoder`` and ``text_encoder``."""
        return self._encoders.count_parameters()

    def embed_texts(
        self, texts: Sequence[str], *, batch_size: int = 256, progress: Progress = no_progress
    ) -> Vectors:
        """Embed texts as unit vectors, (texts, dim) float32.

        A text without any known word gets the vector of an empty text.

        Args:
            texts: in any script, of any length; words past the model's limit are cut off.
            batch_size: texts in a forward pass.
            progress: called with the number of texts finished since the last call.
        """
        if isinstance(texts, str):
            raise TypeError("embed_texts takes a list of texts; write embed_texts([text])")
        vectors = np.empty((len(texts), self.dim), np.float32)
        engine = self._encoders.uses_text_engine(len(texts))
        for start in range(0, len(texts), _SORTED_BATCHES * batch_size):
            token_ids = self.tokenizer.encode(texts[start : start + _SORTED_BATCHES * batch_size])
            lengths = np.maximum((token_ids != 0).sum(axis=1), 1)
            for rows in _batches_by_length(lengths, batch_size, split=engine):
                longest = int(lengths[rows[-1]])
                vectors[start + rows] = self._encoders.embed_tokens(
                    token_ids[rows, :longest], engine=engine
                )
                progress(len(rows))
        return vectors

    def embed_text_features(self, features: Vectors) -> Vectors:
        """Embed cached features of a frozen sentence encoder, (n, feature_dim), as unit vectors."""
        return self._encoders.backend.embed_text_features(features)

    def embed_images(
        self,
        images: Sequence[str | Path | Image.Image],
        *,
        batch_size: int = 32,
        workers: int = 0,
        progress: Progress = no_progress,
    ) -> Vectors:
        """Embed images as unit vectors, (images, dim) float32.

        Args:
            images: files or PIL images.
            batch_size: images in a forward pass.
            workers: threads that decode.
            progress: called with the number of images finished since the last call.

        Raises:
            ImageError: a file is missing or cannot be decoded.
        """
        if isinstance(images, str | Path | Image.Image):
            raise TypeError("embed_images takes a list of images; write embed_images([image])")
        batches = list(self._embed_batches(images, batch_size, workers, progress))
        return np.concatenate(batches) if batches else np.empty((0, self.dim), np.float32)

    def decode(self, content: bytes, name: str) -> Image.Image:
        """Decode the bytes of an image file at the size that the network needs.

        Raises:
            ImageError: it cannot be decoded; the message contains ``name``.
        """
        image = self.recipe.image_encoder
        if image.preprocessing is not None:  # as its own library decodes
            return decode_image(content, name, convert=False)
        return decode_image(content, name, side=decode_size(image.test_side))

    def preprocess(self, image: Image.Image) -> Pixels:
        """Return the views of an image as the network's input, (views, 3, h, w) uint8."""
        return self._transform(image)

    def embed_pixels(self, pixels: Sequence[Pixels], *, batch_size: int = 32) -> Vectors:
        """Embed the results of :meth:`preprocess` as unit vectors, (images, dim) float32."""
        step = 1 if self._slides else batch_size
        batches = [
            self._encoders.embed_images(np.stack(list(pixels[start : start + step])))
            for start in range(0, len(pixels), step)
        ]
        return np.concatenate(batches) if batches else np.empty((0, self.dim), np.float32)

    def embed_folder(
        self,
        paths: Sequence[Path],
        cache_folder: Path,
        *,
        workers: int = 2,
        progress: Progress = no_progress,
    ) -> tuple[Mask, Vectors, dict[Path, str]]:
        """Embed image files and cache the vectors, so that an interrupted call continues.

        A cached vector is found by the model's fingerprint, the views and the image's content.

        Returns:
            Which files are valid, (paths,); the unit vectors of the valid files, (valid, dim)
            float32; and the broken files with the reason.
        """
        scan = scan_images(paths, cache_folder)
        store = VectorStore(cache_folder / "embeddings" / self._cache_key(), self.dim)
        valid = np.flatnonzero(scan.is_valid)
        hashes = scan.hashes[valid]
        missing = store.first_missing(hashes)
        progress(len(valid) - len(missing))
        for start in range(0, len(missing), _STORE_EVERY):
            chunk = missing[start : start + _STORE_EVERY]
            files = [paths[i] for i in valid[chunk]]
            store.add(hashes[chunk], self.embed_images(files, workers=workers, progress=progress))
        return scan.is_valid, np.asarray(store.vectors()[store.rows(hashes)]), scan.broken

    def _cache_key(self) -> str:
        views = hashlib.blake2b(repr(self._transform).encode(), digest_size=4).hexdigest()
        image_encoder = self.exported.get("image_encoder")
        exact = image_encoder is None or image_encoder.precision == "fp32"
        return f"{self.fingerprint}-{views}" + ("" if exact else "-int8")

    def _embed_batches(
        self,
        images: Sequence[str | Path | Image.Image],
        batch_size: int,
        workers: int,
        progress: Progress,
    ) -> Iterator[Vectors]:
        sources = [Path(image) if isinstance(image, str) else image for image in images]
        batch_size = 1 if self._slides else batch_size  # images differ in shape
        for batch in self._transform.batches(sources, batch_size, workers):
            yield self._encoders.embed_images(batch)
            progress(len(batch))

    @property
    def _slides(self) -> bool:
        return self.recipe.image_encoder.test_size is not None

    @property
    def _transform(self) -> ImageTransform:
        image = self.recipe.image_encoder
        views = fixed_views(flip=image.flip_average, crops=image.tta_crops)
        if image.preprocessing is not None:
            return OriginalTransform(views, image.test_side, preprocessing=image.preprocessing)
        return ImageTransform(views, image.test_side, keep_aspect=self._slides)


def load(
    source: str | Path,
    *,
    device: "torch.device | str | None" = None,
    runtime: RuntimeChoice = "fastest",
) -> DualPath:
    """Load a bundle; see :meth:`DualPath.from_pretrained`."""
    return DualPath.from_pretrained(source, device=device, runtime=runtime)


def _batches_by_length(lengths: IntArray, batch_size: int, *, split: bool) -> list[IntArray]:
    """Return the rows of each batch, in order of length.

    Args:
        lengths: (texts,) words of each text.
        split: a batch contains texts of one length. Engines compute padding; torch packs words.
    """
    by_length = np.argsort(lengths, kind="stable")
    changes = np.flatnonzero(np.diff(lengths[by_length])) + 1
    groups = np.split(by_length, changes) if split else [by_length]
    return [
        group[start : start + batch_size]
        for group in groups
        for start in range(0, len(group), batch_size)
    ]
