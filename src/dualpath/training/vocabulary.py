"""The tokenizer of a training and the vectors that its words start from."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dualpath.data.captions import read_captions
from dualpath.data.tokenizer import Tokenizer, count_words, modern_vocabulary
from dualpath.data.word_vectors import read_word_vectors
from dualpath.errors import RecipeError, WordVectorError
from dualpath.inference.model import load
from dualpath.models.text.transformer import sentence_tokenizer_file
from dualpath.recipes.schema import Recipe

Log = Callable[[str], None]


@dataclass(frozen=True)
class TrainingVocabulary:
    """What the text encoder of a training starts from.

    Attributes:
        tokenizer: of the captions.
        vectors: of the word table, (rows, embedding_dim) float32, NaN in rows without one. None:
            the word table starts from random numbers.
    """

    tokenizer: Tokenizer
    vectors: torch.Tensor | None


def build_vocabulary(recipe: Recipe, captions: Iterable[str], log: Log) -> TrainingVocabulary:
    """Build the tokenizer from the training captions, and read word vectors if the recipe has some.

    Args:
        log: called with lines about the coverage of the vocabulary.

    Raises:
        WordVectorError: the word-vector file cannot be read or holds none of the words.
        TextEncoderError: a sentence encoder's tokenizer cannot be loaded.
    """
    text = recipe.text_encoder
    if text.transformer is not None:
        file = sentence_tokenizer_file(text.transformer)
        return TrainingVocabulary(Tokenizer.load(file, "subword", text.max_words), None)
    if text.vocabulary == "subword":
        raise RecipeError("text_encoder.vocabulary: subword needs text_encoder.transformer")
    marks = text.split_question_marks
    counts = count_words(captions, text.vocabulary, split_question_marks=marks)
    for path in {s.distillation.captions for s in recipe.stages if s.distillation}:
        further = read_captions(path) if path else []
        counts.update(count_words(further, text.vocabulary, split_question_marks=marks))
    found = read_word_vectors(text.word_vectors, counts.keys()) if text.word_vectors else {}
    if text.word_vectors and not found:
        raise WordVectorError(f"{text.word_vectors}: contains none of the words of the captions")
    words = list(found) if text.vocabulary == "paper" else modern_vocabulary(counts, text.min_count)
    tokenizer = Tokenizer(words, text.vocabulary, text.max_words, split_question_marks=marks)
    known = sum(counts[word] for word in words)
    log(
        f"vocabulary: {len(words):,} of {len(counts):,} different words, "
        f"{100 * known / max(1, counts.total()):.1f} % of the {counts.total():,} words in captions"
    )
    teachers = [stage.distillation.teacher for stage in recipe.stages if stage.distillation]
    if not found and teachers:
        log(f"word vectors: embeddings of the words by the teacher {teachers[0]}")
        vectors = _teacher_vectors(teachers[0], words, tokenizer.num_embeddings)
        return TrainingVocabulary(tokenizer, vectors)
    if not found:
        return TrainingVocabulary(tokenizer, None)
    covered = [word for word in words if word in found]
    log(
        f"word vectors: {len(covered):,} of {len(words):,} words of the vocabulary have one "
        f"({100 * len(covered) / max(1, len(words)):.1f} %)"
    )
    dim = len(next(iter(found.values())))
    table = np.full((tokenizer.num_embeddings, dim), np.nan, np.float32)
    for number, word in enumerate(words, start=1):
        if word in found:
            table[number] = found[word]
    return TrainingVocabulary(tokenizer, torch.from_numpy(table))


def _teacher_vectors(teacher: Path, words: list[str], rows: int) -> torch.Tensor:
    model = load(teacher)
    table = np.full((rows, model.dim), np.nan, np.float32)
    table[1 : len(words) + 1] = model.embed_texts(words)
    return torch.from_numpy(table)
