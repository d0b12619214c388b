"""From a recipe and a manifest to what the trainer needs; everything that can fail, fails here."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dualpath.data.items import Items
from dualpath.data.manifest import Manifest, ManifestError
from dualpath.data.pictures import Survey, broken_pictures_message, survey_pictures
from dualpath.data.tokenizer import Tokenizer, count_words, modern_vocabulary
from dualpath.data.word_vectors import WordVectorError, read_word_vectors
from dualpath.embedding import load
from dualpath.models.text_transformer import sentence_tokenizer_file
from dualpath.recipe import Recipe
from dualpath.training.distillation import read_captions
from dualpath.vectors import Advance, unwatched

Say = Callable[[str], None]


@dataclass(frozen=True)
class TrainingData:
    """Captioned, sound pictures, and hashes of their files' contents. ``val`` may be empty."""

    train: Items
    val: Items
    train_hashes: npt.NDArray[np.bytes_]
    val_hashes: npt.NDArray[np.bytes_]

    @property
    def fingerprint(self) -> str:
        """A hash of everything that training reads."""
        digest = hashlib.blake2b(digest_size=16)
        for items, hashes in ((self.train, self.train_hashes), (self.val, self.val_hashes)):
            for item, content_hash in zip(items, hashes, strict=True):
                fields = (item.split, item.instance, content_hash.decode(), *item.captions)
                digest.update(repr(fields).encode())
        return digest.hexdigest()


def gather_data(
    manifest: Manifest,
    cache: Path,
    *,
    skip_broken: bool,
    say: Say,
    advance: Advance = unwatched,
) -> TrainingData:
    """Pick the captioned pictures of train and val and check that every file is sound.

    Raises:
        ManifestError: no training picture, or broken pictures and ``skip_broken`` is false.
    """
    wanted = manifest.items.where(manifest.items.split_mask("train", "val"))
    captioned = wanted.where(wanted.caption_counts > 0)
    if len(captioned) < len(wanted):
        say(f"{len(wanted) - len(captioned)} pictures without a caption are left out")
    survey = survey_pictures(captioned.paths, cache, advance)
    _report_broken(survey, skip_broken, say)
    train, val = (captioned.split_mask(split) & survey.sound for split in ("train", "val"))
    if train.sum() < 2:
        raise ManifestError(
            f"{manifest.folder}: split 'train' needs two captioned pictures or more"
        )
    return TrainingData(
        train=captioned.where(train),
        val=captioned.where(val),
        train_hashes=survey.hashes[train],
        val_hashes=survey.hashes[val],
    )


def _report_broken(survey: Survey, skip_broken: bool, say: Say) -> None:
    if not survey.broken:
        return
    if not skip_broken:
        raise ManifestError(broken_pictures_message(survey.broken))
    for problem in survey.broken.values():
        say(f"left out: {problem}")


@dataclass(frozen=True)
class Words:
    """The tokenizer of a training, and vectors for its table: (rows, dim), NaN where none."""

    tokenizer: Tokenizer
    vectors: torch.Tensor | None


def build_words(recipe: Recipe, items: Items, say: Say) -> Words:
    """Build the vocabulary from the training captions, read its vectors, and say the coverage."""
    text = recipe.text_encoder
    if text.transformer is not None:
        file = sentence_tokenizer_file(text.transformer)
        return Words(Tokenizer.load(file, "subword", text.max_words), None)
    assert text.vocabulary != "subword"
    counts = count_words(items.captions, text.vocabulary)
    for path in {s.distillation.captions for s in recipe.stages if s.distillation}:
        counts.update(count_words(read_captions(path), text.vocabulary) if path else {})
    found = read_word_vectors(text.word_vectors, counts.keys()) if text.word_vectors else {}
    if text.word_vectors and not found:
        raise WordVectorError(f"{text.word_vectors}: holds none of the captions' words")
    words = list(found) if text.vocabulary == "paper" else modern_vocabulary(counts, text.min_count)
    tokenizer = Tokenizer(words, text.vocabulary, text.max_words)
    known = sum(counts[word] for word in words)
    say(
        f"vocabulary: {len(words):,} of {len(counts):,} different words, "
        f"{100 * known / max(1, counts.total()):.1f} % of the {counts.total():,} words in captions"
    )
    teachers = [stage.distillation.teacher for stage in recipe.stages if stage.distillation]
    if not found and teachers:
        say(f"word vectors: of the teacher {teachers[0]}")
        return Words(tokenizer, _words_of_teacher(teachers[0], words, tokenizer.rows))
    if not found:
        return Words(tokenizer, None)
    covered = [word for word in words if word in found]
    say(
        f"word vectors: {len(covered):,} of {len(words):,} words of the vocabulary have one "
        f"({100 * len(covered) / max(1, len(words)):.1f} %)"
    )
    dim = len(next(iter(found.values())))
    vectors = np.full((tokenizer.rows, dim), np.nan, np.float32)
    for number, word in enumerate(words, start=1):
        if word in found:
            vectors[number] = found[word]
    return Words(tokenizer, torch.from_numpy(vectors))


def _words_of_teacher(teacher: Path, words: list[str], rows: int) -> torch.Tensor:
    model = load(teacher)
    vectors = np.full((rows, model.dim), np.nan, np.float32)
    vectors[1 : len(words) + 1] = model.embed_texts(words)
    return torch.from_numpy(vectors)


@torch.no_grad()
def set_word_vectors(embedding: nn.Embedding, vectors: torch.Tensor) -> None:
    """Put vectors, (rows, dim), into the word table of a text encoder.

    Words without one get random numbers of the spread of the others; padding stays zero.
    """
    table = embedding.weight
    spread = float(vectors[~vectors.isnan()].std())
    table.normal_(std=spread)
    table[0] = 0
    table.copy_(torch.where(vectors.isnan(), table, vectors))
