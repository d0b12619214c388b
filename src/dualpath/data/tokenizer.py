"""Sentences to word numbers, by a Hugging Face ``tokenizers`` WordLevel model.

Three modes, the first two of paper, section 4.1:

* **paper**: case-sensitive; the vocabulary is the training words that have a vector, in the order
  of the vector file; other words are dropped and take up no position.
* **modern**: lower-cased (NFC, accents kept), words seen at least ``min_count`` times, the
  others become ``[UNK]``; characters of Chinese and Japanese are words of their own.

* **subword**: the tokenizer of a pretrained sentence encoder, its special tokens included; number
  i + 1 is its token i.

Number 0 is padding in all.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Regex
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import NFC, BertNormalizer
from tokenizers.normalizers import Sequence as NormalizerSequence
from tokenizers.pre_tokenizers import Split

PADDING = "[PAD]"
_ENCODED = 10_000  # sentences encoded at a time: what the library gives for each is large
UNKNOWN = "[UNK]"
WordVocabulary = Literal["paper", "modern"]
Vocabulary = Literal["paper", "modern", "subword"]

# The delimiters of the authors' code: hyphen, space, full stop, comma and round brackets.
_PAPER_DELIMITERS = r"[\s\-.,()?]+"
_MODERN_WORDS = r"[\p{L}\p{M}\p{N}]+('\p{L}+)?|\p{So}"


class Tokenizer:
    """Encode sentences as rows of word numbers.

    Args:
        words: the vocabulary, in order; word ``i`` gets number ``i + 1``.
        vocabulary: which mode of the two that are built from words.
        max_words: words kept of a sentence.
    """

    vocabulary: Vocabulary

    def __init__(self, words: Sequence[str], vocabulary: WordVocabulary, max_words: int) -> None:
        numbers = {word: number for number, word in enumerate([PADDING, *words, UNKNOWN])}
        tokenizer = HuggingFaceTokenizer(WordLevel(numbers, unk_token=UNKNOWN))
        _set_pipeline(tokenizer, vocabulary)
        self._tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.max_words = max_words

    @classmethod
    def load(cls, path: Path, vocabulary: Vocabulary, max_words: int) -> "Tokenizer":
        """Read ``tokenizer.json``; raises ``ValueError`` where it is none."""
        tokenizer = cls.__new__(cls)
        try:
            tokenizer._tokenizer = HuggingFaceTokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{path}: not a tokenizer file ({error})") from error
        if vocabulary == "subword":
            tokenizer._tokenizer.no_padding()
            tokenizer._tokenizer.enable_truncation(max_words)
        tokenizer.vocabulary = vocabulary
        tokenizer.max_words = max_words
        return tokenizer

    def save(self, path: Path) -> None:
        """Write ``tokenizer.json`` in the Hugging Face format."""
        self._tokenizer.save(str(path))

    @property
    def rows(self) -> int:
        """Rows of the word-embedding table: padding, the words and, if modern, ``[UNK]``.

        In the subword mode: the numbers there are, padding included.
        """
        size = int(self._tokenizer.get_vocab_size())
        return {"paper": size - 1, "modern": size, "subword": size + 1}[self.vocabulary]

    @property
    def words(self) -> list[str]:
        """The words in order of their numbers (1, 2, ...), without padding and ``[UNK]``."""
        numbers = self._tokenizer.get_vocab()
        return sorted(numbers, key=numbers.__getitem__)[1:-1]

    def split(self, sentence: str) -> list[str]:
        """Return the words of a sentence as the vocabulary sees them, known or not."""
        return next(_split(self._tokenizer, [sentence]))

    def encode(self, sentences: Sequence[str]) -> npt.NDArray[np.int64]:
        """Encode to word numbers, (sentences, max_words) int64, left-aligned, padded with 0.

        >>> tokenizer = Tokenizer(["a", "dog"], "modern", max_words=4)
        >>> tokenizer.encode(["A dog, a CAT!", ""]).tolist()
        [[1, 2, 1, 3], [0, 0, 0, 0]]
        """
        numbers = np.zeros((len(sentences), self.max_words), dtype=np.int64)
        for start in range(0, len(sentences), _ENCODED):
            chunk = slice(start, start + _ENCODED)
            self._encode(list(sentences[chunk]), numbers[chunk])
        return numbers

    def _encode(self, sentences: list[str], numbers: npt.NDArray[np.int64]) -> None:
        if self.vocabulary == "subword":
            for row, encoding in zip(numbers, self._tokenizer.encode_batch(sentences), strict=True):
                row[: len(encoding.ids)] = np.asarray(encoding.ids) + 1
            return
        unknown = self._tokenizer.token_to_id(UNKNOWN) if self.vocabulary == "paper" else 0
        encodings = self._tokenizer.encode_batch(sentences, add_special_tokens=False)
        for row, encoding in zip(numbers, encodings, strict=True):
            kept = [number for number in encoding.ids if number not in (0, unknown)]
            kept = kept[: self.max_words]
            row[: len(kept)] = kept


def trim_padding(token_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Cut rows of left-aligned numbers, (sentences, positions), to the longest, but not to none.

    >>> trim_padding(np.array([[3, 0, 0], [1, 2, 0]])).tolist()
    [[3, 0], [1, 2]]
    """
    return token_ids[:, : max(1, int((token_ids != 0).sum(axis=1).max()))]


def count_words(sentences: Iterable[str], vocabulary: WordVocabulary) -> Counter[str]:
    """Count the words of sentences as the given mode splits them, in order of first sight."""
    tokenizer = HuggingFaceTokenizer(WordLevel({UNKNOWN: 0}, unk_token=UNKNOWN))
    _set_pipeline(tokenizer, vocabulary)
    counts: Counter[str] = Counter()
    for words in _split(tokenizer, sentences):
        counts.update(words)
    return counts


def modern_vocabulary(counts: Counter[str], min_count: int) -> list[str]:
    """Return the words seen at least ``min_count`` times, the most frequent first."""
    frequent = [(word, count) for word, count in counts.items() if count >= min_count]
    return [word for word, _ in sorted(frequent, key=lambda pair: (-pair[1], pair[0]))]


def _set_pipeline(tokenizer: HuggingFaceTokenizer, vocabulary: WordVocabulary) -> None:
    if vocabulary == "paper":
        tokenizer.pre_tokenizer = Split(Regex(_PAPER_DELIMITERS), "removed")
        return
    tokenizer.normalizer = NormalizerSequence(
        [
            NFC(),
            BertNormalizer(
                clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=True
            ),
        ]
    )
    tokenizer.pre_tokenizer = Split(Regex(_MODERN_WORDS), "removed", invert=True)


def _split(tokenizer: HuggingFaceTokenizer, sentences: Iterable[str]) -> Iterator[list[str]]:
    for sentence in sentences:
        text = tokenizer.normalizer.normalize_str(sentence) if tokenizer.normalizer else sentence
        yield [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
