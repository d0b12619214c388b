"""A trained model as the teacher of another: its image path to begin with, its sentences as goals.

A sentence needs no picture to be learnt from: any captions will do beside those of the data.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dualpath.data.tokenizer import trim_padding
from dualpath.data.vector_store import VectorStore
from dualpath.embedding import DualPath, load
from dualpath.models.dual_path import DualPathNetwork
from dualpath.models.text_transformer import TextTransformer
from dualpath.recipe import DistillationRecipe
from dualpath.training.feature_cache import cached_sentences
from dualpath.training.progress import Display
from dualpath.vectors import Vectors

_CHUNK = 2048


class TeacherError(ValueError):
    """A teacher or its captions that cannot be used; the message names the file."""


def read_captions(path: Path) -> list[str]:
    """Read sentences: a text file, one a line, or JSON lines with ``captions`` (or ``text``).

    Raises:
        TeacherError: it cannot be read.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        if path.suffix != ".jsonl":
            return [line for line in lines if line]
        return [one for line in lines if line for one in _captions(json.loads(line))]
    except (OSError, ValueError, KeyError) as error:
        raise TeacherError(f"{path}: no captions can be read ({error})") from error


def _captions(row: dict[str, Any]) -> Sequence[str]:
    captions = row["captions"] if "captions" in row else row["text"]
    return [captions] if isinstance(captions, str) else captions


class Teacher:
    """Where sentences should be.

    Args:
        captions: the training captions.
        encode: sentences to token numbers of the student, (sentences, words) int64.
        dim: of the student.
        cache: folder where the teacher's vectors are kept.

    Attributes:
        targets: (captions, dim) float32, the teacher's unit vectors.

    Raises:
        TeacherError, BundleError: it cannot be used.
    """

    def __init__(
        self,
        recipe: DistillationRecipe,
        captions: Sequence[str],
        encode: Callable[[Sequence[str]], Any],
        dim: int,
        cache: Path,
        display: Display,
    ) -> None:
        teacher = load(recipe.teacher)
        if teacher.dim != dim:
            raise TeacherError(
                f"{recipe.teacher}: embeds in {teacher.dim} dimensions; set dim of the recipe to it"
            )
        extra = read_captions(recipe.captions) if recipe.captions else []
        with display.work("teacher's sentences", len(captions) + len(extra)) as advance:
            self.targets = _kept_vectors(teacher, captions, cache, advance)
            self._extra_targets = _kept_vectors(teacher, extra, cache, advance)
        self._extra_tokens = encode(extra)
        self._image_encoder = teacher.network.image_encoder
        self._per_batch = recipe.captions_per_batch

    def hand_over_images(self, network: DualPathNetwork) -> None:
        """Let a network begin with the teacher's image path.

        Raises:
            TeacherError: it is of another shape.
        """
        try:
            network.image_encoder.load_state_dict(self._image_encoder.state_dict())
        except RuntimeError as error:
            raise TeacherError(
                "the teacher's image path is of another shape; give the recipe the same "
                "image_encoder"
            ) from error

    def draw(self, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """Draw captions without pictures, by torch's generator: token ids and their targets."""
        if not len(self._extra_tokens):
            return None
        drawn = torch.randint(len(self._extra_tokens), (self._per_batch,)).numpy()
        token_ids = trim_padding(self._extra_tokens[drawn])
        targets = np.asarray(self._extra_targets[drawn])
        return (
            torch.from_numpy(token_ids).to(device),
            torch.from_numpy(targets).to(device),
        )


def _kept_vectors(
    teacher: DualPath, sentences: Sequence[str], cache: Path, advance: Callable[[int], None]
) -> Vectors:
    if isinstance(teacher.network.text_encoder, TextTransformer):
        # The features are kept for all teachers of the same encoder; only the heads differ.
        tokens = teacher.tokenizer.encode(sentences)
        features = cached_sentences(teacher.network.text_encoder, tokens, cache, advance)
        return teacher.embed_kept_sentences(features)
    store = VectorStore(cache / "sentences" / teacher.fingerprint, teacher.dim)
    hashes = [hashlib.blake2b(s.encode(), digest_size=16).hexdigest() for s in sentences]
    missing = store.first_missing(hashes)
    advance(len(sentences) - len(missing))
    for start in range(0, len(missing), _CHUNK):
        chunk = missing[start : start + _CHUNK]
        vectors = teacher.embed_texts([sentences[i] for i in chunk], advance=advance)
        store.add([hashes[i] for i in chunk], vectors)
    return np.asarray(store.vectors()[store.rows(hashes)])
