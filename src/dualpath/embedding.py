"""The trained model as its user meets it: pictures and sentences in, unit vectors out."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from huggingface_hub import HfApi
from PIL import Image

from dualpath.allocator import keep_freed_memory
from dualpath.bundle import FILES, Parts, find_bundle, fingerprint, read_bundle, write_bundle
from dualpath.calibration import Calibration
from dualpath.data.pictures import decode_picture, survey_pictures
from dualpath.data.tokenizer import Tokenizer
from dualpath.data.vector_store import VectorStore
from dualpath.data.views import Renderer, fixed_views, side_to_decode
from dualpath.models.dual_path import DualPathNetwork
from dualpath.models.layers import evaluating
from dualpath.recipe import Recipe
from dualpath.runtimes import Encoder, Engine, Exported, fastest, open_engine
from dualpath.vectors import Advance, Mask, Vectors, unwatched

_STORE_EVERY = 512
_KEPT = 2048  # kept features in a pass through the head
_ASKED_AT_ONCE = 16  # sentences; of more, torch packs the words and an engine pads them
_SORTED = 16  # batches of sentences that are put in the order of their lengths


class DualPath:
    """An image encoder and a text encoder into one space, with all they need.

    Attributes:
        network: the torch module.
        tokenizer: of the text path.
        recipe: how it was trained.
        metrics: what was measured when it was.
        device: where it computes.
        source: the folder or hub id it was loaded from; none for one that was just trained.
        exported: the encoders in another runtime that stand in for torch's.

    Example::

        model = dualpath.load("bundle")
        scores = model.embed_texts(["a red bus"]) @ model.embed_images(["bus.jpg"]).T
    """

    def __init__(
        self,
        network: DualPathNetwork,
        tokenizer: Tokenizer,
        recipe: Recipe,
        metrics: dict[str, Any] | None = None,
        device: torch.device | str | None = None,
        source: str | None = None,
        engines: Mapping[Encoder, Engine] | None = None,
    ) -> None:
        keep_freed_memory()
        self.source = source
        self._engines = engines or {}
        self.exported: dict[Encoder, Exported] = {}
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.network = network.to(self.device)
        self.tokenizer = tokenizer
        self.recipe = recipe
        self.metrics = metrics or {}

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        device: torch.device | str | None = None,
        runtime: Literal["fastest", "torch"] = "fastest",
    ) -> "DualPath":
        """Load a bundle from a folder or from the Hugging Face hub.

        Args:
            device: none: a GPU where there is one.
            runtime: on a CPU, the fastest encoders that were exported into the bundle and whose
                runtime is installed; or torch all the same.

        Raises:
            BundleError: it is missing, damaged or of another kind.
        """
        folder = find_bundle(source)
        source = str(folder.resolve()) if Path(source).is_dir() else str(source)
        model = cls(*read_bundle(folder), device=device, source=source)
        if runtime == "fastest" and model.device.type == "cpu":
            model.exported = fastest(folder, lambda: model.fingerprint)
            model._engines = {
                encoder: open_engine(folder / one.file) for encoder, one in model.exported.items()
            }
        return model

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a bundle; raises ``BundleError`` where it cannot."""
        write_bundle(Path(folder), Parts(self.network, self.tokenizer, self.recipe, self.metrics))

    @staticmethod
    def push_to_hub(bundle: str | Path, repo_id: str, *, private: bool = True) -> str:
        """Upload a written bundle to the Hugging Face hub and return its address."""
        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(
            api.upload_folder(
                repo_id=repo_id, folder_path=find_bundle(bundle), allow_patterns=list(FILES)
            )
        )

    @property
    def dim(self) -> int:
        """Numbers in an embedding."""
        return self.recipe.dim

    @property
    def calibration(self) -> Calibration | None:
        """What cosines of sentences and pictures mean, fitted on validation; none without."""
        fitted = self.metrics.get("validation", {}).get("calibration")
        return None if fitted is None else Calibration(**fitted)

    @property
    def fingerprint(self) -> str:
        """A hash of the weights; embeddings of models that differ cannot be compared."""
        return fingerprint(self.network)

    def embed_texts(
        self,
        sentences: Sequence[str],
        *,
        batch_size: int = 256,
        advance: Advance = unwatched,
    ) -> Vectors:
        """Embed sentences as unit vectors, (sentences, dim) float32.

        A sentence without any known word gets the vector of an empty sentence.

        Args:
            sentences: any script, any length; words past the model's limit are left out.
            batch_size: sentences in a forward pass.
            advance: called with the number of sentences done since the last call.
        """
        if isinstance(sentences, str):
            raise TypeError("embed_texts takes a list of sentences; write embed_texts([sentence])")
        vectors = np.empty((len(sentences), self.dim), np.float32)
        with evaluating(self.network):
            for start in range(0, len(sentences), _SORTED * batch_size):
                token_ids = self.tokenizer.encode(sentences[start : start + _SORTED * batch_size])
                lengths = (token_ids != 0).sum(axis=1)
                by_length = np.argsort(lengths, kind="stable")  # what is as long pads least
                for rows in np.split(by_length, range(batch_size, len(by_length), batch_size)):
                    longest = max(1, int(lengths[rows].max()))
                    vectors[start + rows] = self._forward_tokens(token_ids[rows, :longest])
                    advance(len(rows))
        return vectors

    def embed_kept_sentences(self, features: Vectors) -> Vectors:
        """Embed kept features of a sentence encoder as unit vectors, (sentences, dim) float32.

        Args:
            features: (sentences, width) float32.
        """
        vectors = np.empty((len(features), self.dim), np.float32)
        with evaluating(self.network):
            for start in range(0, len(features), _KEPT):
                part = slice(start, start + _KEPT)
                batch = torch.from_numpy(features[part]).to(self.device)
                vectors[part] = self.network.embed_sentences(batch).float().cpu().numpy()
        return vectors

    def embed_images(
        self,
        pictures: Sequence[str | Path | Image.Image],
        *,
        batch_size: int = 32,
        workers: int = 0,
        advance: Advance = unwatched,
    ) -> Vectors:
        """Embed pictures as unit vectors, (pictures, dim) float32.

        Args:
            pictures: files or PIL pictures.
            batch_size: pictures in a forward pass.
            workers: threads that decode.
            advance: called with the number of pictures done since the last call.

        Raises:
            PictureError: a file is missing or no sound picture.
        """
        if isinstance(pictures, str | Path | Image.Image):
            raise TypeError("embed_images takes a list of pictures; write embed_images([picture])")
        parts = list(self._embed_batches(pictures, batch_size, workers, advance))
        return np.concatenate(parts) if parts else np.empty((0, self.dim), np.float32)

    def decode(self, content: bytes, name: str) -> Image.Image:
        """Decode a picture file as large as the network needs it; ``PictureError`` names it."""
        return decode_picture(content, name, side=side_to_decode(self._size))

    def render(self, picture: Image.Image) -> torch.Tensor:
        """Render a picture as the network sees it, (views, 3, h, w) uint8.

        A small thing to hand from threads that decode to the one that embeds.
        """
        return self._renderer(picture)

    def embed_rendered(self, rendered: Sequence[torch.Tensor], *, batch_size: int = 32) -> Vectors:
        """Embed what :meth:`render` gave as unit vectors, (pictures, dim) float32."""
        step = 1 if self._slides else batch_size
        starts = range(0, len(rendered), step)
        with evaluating(self.network):
            parts = [self._forward(torch.stack(list(rendered[i : i + step]))) for i in starts]
        return np.concatenate(parts) if parts else np.empty((0, self.dim), np.float32)

    def embed_folder(
        self,
        paths: Sequence[Path],
        cache_folder: Path,
        *,
        workers: int = 2,
        advance: Advance = unwatched,
    ) -> tuple[Mask, Vectors, dict[Path, str]]:
        """Embed picture files, keeping the vectors under ``cache_folder`` between calls.

        A vector is kept under the model's fingerprint, the views it averages and the picture's
        content, so what changed is computed anew and an interrupted call continues.

        Returns:
            which files are sound, (paths,); their unit vectors, (sound files, dim) float32; and the
            broken files with what is wrong.
        """
        survey = survey_pictures(paths, cache_folder)
        image = self.exported.get("image_encoder")
        exact = image is None or image.precision == "fp32"
        views = hashlib.blake2b(repr(self._renderer).encode(), digest_size=4).hexdigest()
        name = f"{self.fingerprint}-{views}" + ("" if exact else "-int8")
        store = VectorStore(cache_folder / "embeddings" / name, self.dim)
        sound = np.flatnonzero(survey.sound)
        hashes = survey.hashes[sound]
        missing = store.first_missing(hashes)
        advance(len(sound) - len(missing))
        for start in range(0, len(missing), _STORE_EVERY):
            chunk = missing[start : start + _STORE_EVERY]
            files = [paths[i] for i in sound[chunk]]
            store.add(hashes[chunk], self.embed_images(files, workers=workers, advance=advance))
        return survey.sound, np.asarray(store.vectors()[store.rows(hashes)]), survey.broken

    def _embed_batches(
        self,
        pictures: Sequence[str | Path | Image.Image],
        batch_size: int,
        workers: int,
        advance: Advance,
    ) -> Iterator[Vectors]:
        sources = [Path(p) if isinstance(p, str) else p for p in pictures]
        batch_size = 1 if self._slides else batch_size  # pictures of different shapes
        with evaluating(self.network):
            for batch in self._renderer.batches(sources, batch_size, workers):
                yield self._forward(batch)
                advance(len(batch))

    def _forward(self, batch: torch.Tensor) -> Vectors:
        """Embed rendered pictures of one shape, (pictures, views, 3, h, w) uint8."""
        engine = self._engines.get("image_encoder")
        if engine is not None:
            features = torch.from_numpy(engine(batch.flatten(0, 1).numpy()))
            return F.normalize(features.view(*batch.shape[:2], -1).sum(1)).numpy()
        embed = self.network.embed_sliding if self._slides else self.network.embed_pictures
        return embed(*batch.to(self.device).unbind(1)).float().cpu().numpy()

    def _forward_tokens(self, token_ids: npt.NDArray[np.int64]) -> Vectors:
        """Embed sentences, (sentences, positions) padded with 0."""
        engine = self._engines.get("text_encoder")
        if engine is not None and len(token_ids) <= _ASKED_AT_ONCE:
            return F.normalize(torch.from_numpy(engine(token_ids))).numpy()
        batch = torch.from_numpy(token_ids).to(self.device)
        average = self.recipe.text_encoder.position_shift
        return self.network.embed_sentences(batch, average=average).float().cpu().numpy()

    @property
    def _slides(self) -> bool:
        return self.recipe.image_encoder.test_size is not None

    @property
    def _size(self) -> int:
        image = self.recipe.image_encoder
        assert image.input_size is not None, "a trained model's recipe names its input size"
        return image.test_size or image.input_size

    @property
    def _renderer(self) -> Renderer:
        image = self.recipe.image_encoder
        views = fixed_views(flip=image.flip_average, crops=image.average_crops)
        return Renderer(views, self._size, keep_aspect=self._slides)


def load(
    source: str | Path,
    device: torch.device | str | None = None,
    runtime: Literal["fastest", "torch"] = "fastest",
) -> DualPath:
    """Load a bundle: :meth:`DualPath.from_pretrained`."""
    return DualPath.from_pretrained(source, device, runtime)
