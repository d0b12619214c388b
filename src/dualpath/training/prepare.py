"""From a recipe and a manifest to what the trainer needs; everything that can fail, fails here."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dualpath.data.manifest import Item, Manifest, ManifestError
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
    """Captioned, sound pictures. ``val`` may be empty; ``hashes`` are of the files' contents."""

    train: list[Item]
    val: list[Item]
    hashes: dict[Path, str]

    @property
    def fingerprint(self) -> str:
        """A hash of everything that training reads."""
        digest = hashlib.blake2b(digest_size=16)
        for item in [*self.train, *self.val]:
            fields = (item.split, item.instance, self.hashes[item.path], *item.captions)
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
    wanted = [item for item in manifest.items if item.split in ("train", "val")]
    captioned = [item for item in wanted if item.captions]
    if len(captioned) < len(wanted):
        say(f"{len(wanted) - len(captioned)} pictures without a caption are left out")
    survey = survey_pictures([item.path for item in captioned], cache, advance)
    _report_broken(survey, skip_broken, say)
    sound = [item for item in captioned if item.path in survey.hashes]
    train = [item for item in sound if item.split == "train"]
    if len(train) < 2:
        raise ManifestError(
            f"{manifest.folder}: split 'train' needs two captioned pictures or more"
        )
    val = [item for item in sound if item.split == "val"]
    return TrainingData(train=train, val=val, hashes=survey.hashes)


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


def build_words(recipe: Recipe, items: list[Item], say: Say) -> Words:
    """Build the vocabulary from the training captions, read its vectors, and say the coverage."""
    text = recipe.text_encoder
    if text.transformer is not None:
        file = sentence_tokenizer_file(text.transformer)
        return Words(Tokenizer.load(file, "subword", text.max_words), None)
    assert text.vocabulary != "subword"
    captions = [caption for item in items for caption in item.captions]
    for path in {s.distillation.captions for s in recipe.stages if s.distillation}:
        captions += read_captions(path) if path else []
    counts = count_words(captions, text.vocabulary)
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
