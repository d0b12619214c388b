"""The teacher of a distillation: a trained model whose text embeddings are the targets.

A caption needs no image for this, so captions without images can be used beside the training data.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dualpath.data.captions import read_captions
from dualpath.data.tokenizer import trim_padding
from dualpath.data.vector_store import VectorStore
from dualpath.errors import TeacherError
from dualpath.inference.model import DualPath, load
from dualpath.models.dual_encoder import DualEncoder
from dualpath.recipes.stages import DistillationRecipe
from dualpath.training.feature_cache import cached_text_features
from dualpath.types import IntArray, Progress, Vectors
from dualpath.utils.progress import Display

_CHUNK = 2048  # captions between two writes to the cache


class Teacher:
    """Targets of captions, with and without images.

    Args:
        recipe: names the teacher.
        captions: the training captions.
        encode: the student's tokenizer: captions to token ids, (captions, words) int64.
        dim: length of the student's embeddings.
        cache: folder for the teacher's embeddings.

    Attributes:
        targets: (captions, dim) float32, unit vectors of the training captions.

    Raises:
        TeacherError, BundleError: the teacher cannot be used.
    """

    def __init__(
        self,
        recipe: DistillationRecipe,
        captions: Sequence[str],
        encode: Callable[[Sequence[str]], IntArray],
        dim: int,
        cache: Path,
        display: Display,
    ) -> None:
        teacher = load(recipe.teacher)
        if teacher.dim != dim:
            raise TeacherError(
                f"{recipe.teacher}: has embeddings of {teacher.dim} dimensions; set the same dim "
                "in the recipe"
            )
        unpaired = read_captions(recipe.captions) if recipe.captions else []
        with display.bar("teacher's embeddings", len(captions) + len(unpaired)) as progress:
            self.targets = _embed(teacher, captions, cache, progress)
            self._unpaired_targets = _embed(teacher, unpaired, cache, progress)
        self._unpaired_tokens = encode(unpaired)
        self._image_encoder = teacher.network.image_encoder
        self._per_batch = recipe.captions_per_batch

    def init_student(self, network: DualEncoder) -> None:
        """Copy the weights of the teacher's image encoder into a network.

        Raises:
            TeacherError: the two image encoders have different shapes.
        """
        try:
            network.image_encoder.load_state_dict(self._image_encoder.state_dict())
        except RuntimeError as error:
            raise TeacherError(
                "the teacher's image encoder has another shape; use the same image_encoder in the "
                "recipe"
            ) from error

    def draw(self, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """Draw captions without images from torch's global generator.

        Returns:
            Token ids, (n, words) int64, and targets, (n, dim) float32. None if there are no such
            captions.
        """
        if not len(self._unpaired_tokens):
            return None
        drawn = torch.randint(len(self._unpaired_tokens), (self._per_batch,)).numpy()
        token_ids = trim_padding(self._unpaired_tokens[drawn])
        targets = np.asarray(self._unpaired_targets[drawn])
        return torch.from_numpy(token_ids).to(device), torch.from_numpy(targets).to(device)


def _embed(teacher: DualPath, captions: Sequence[str], cache: Path, progress: Progress) -> Vectors:
    """Embed captions with the teacher, or read the embeddings from the cache."""
    if teacher.network.text_encoder.feature_dim is not None:
        # Features are shared by all teachers with the same sentence encoder; only heads differ.
        tokens = teacher.tokenizer.encode(captions)
        features = cached_text_features(teacher.network.text_encoder, tokens, cache, progress)
        return teacher.embed_text_features(features)
    store = VectorStore(cache / "sentences" / teacher.fingerprint, teacher.dim)
    hashes = [hashlib.blake2b(c.encode(), digest_size=16).hexdigest() for c in captions]
    missing = store.first_missing(hashes)
    progress(len(captions) - len(missing))
    for start in range(0, len(missing), _CHUNK):
        chunk = missing[start : start + _CHUNK]
        vectors = teacher.embed_texts([captions[i] for i in chunk], progress=progress)
        store.add([hashes[i] for i in chunk], vectors)
    return np.asarray(store.vectors()[store.rows(hashes)])
