"""Sentences to token IDs, with a WordLevel model of Hugging Face ``tokenizers``.

There are three modes. The first two follow the paper, section 4.1:

* **paper**: case-sensitive. The vocabulary holds the training words that have a vector, in the
  order of the vector file. Other words are dropped and take no position.
* **modern**: lower-cased, in Unicode form NFC, with accents. The vocabulary holds the words that
  occur at least ``min_count`` times; other words become ``[UNK]``. Every Chinese or Japanese
  character is a word.
* **subword**: the tokenizer of a pretrained sentence encoder, with its special tokens. Token ``i``
  of that tokenizer has ID ``i + 1``.

ID 0 is padding in all modes.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from tokenizers import Regex
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import NFC, BertNormalizer
from tokenizers.normalizers import Sequence as NormalizerSequence
from tokenizers.pre_tokenizers import Split

from dualpath.data.text_cleaning import find_cleaner
from dualpath.recipes.encoders import Cleaning
from dualpath.types import IntArray, Mask
from dualpath.utils.text import error_reason

PADDING = "[PAD]"
UNKNOWN = "[UNK]"
_CHUNK = 10_000  # sentences encoded at a time: the library's result for each of them is large
WordVocabulary = Literal["paper", "modern"]
Vocabulary = Literal["paper", "modern", "subword"]

# The delimiters of the authors' code: hyphen, space, full stop, comma and round brackets; for
# MSCOCO alone also the question mark.
_PAPER_DELIMITERS = r"[\s\-.,()]+"
_PAPER_DELIMITERS_WITH_QUESTION_MARK = r"[\s\-.,()?]+"
_MODERN_WORDS = r"[\p{L}\p{M}\p{N}]+('\p{L}+)?|\p{So}"


class Tokenizer:
    """Encodes sentences as rows of token IDs.

    Args:
        words: the vocabulary in order; ``words[i]`` gets ID ``i + 1``.
        vocabulary: the mode; a subword tokenizer comes from :meth:`load`.
        max_words: further words of a sentence are cut off.
        split_question_marks: whether ``?`` ends a word in the ``paper`` mode.

    >>> tokenizer = Tokenizer(["a", "dog"], "modern", max_words=4)
    >>> tokenizer.encode(["A dog, a CAT!", ""]).tolist()
    [[1, 2, 1, 3], [0, 0, 0, 0]]
    """

    vocabulary: Vocabulary
    _clean: Callable[[str], str] | None = None

    def __init__(
        self,
        words: Sequence[str],
        vocabulary: WordVocabulary,
        max_words: int,
        *,
        split_question_marks: bool = True,
    ) -> None:
        ids = {word: token_id for token_id, word in enumerate([PADDING, *words, UNKNOWN])}
        tokenizer = HuggingFaceTokenizer(WordLevel(ids, unk_token=UNKNOWN))
        _set_pipeline(tokenizer, vocabulary, split_question_marks)
        self._tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.max_words = max_words

    @classmethod
    def load(
        cls, path: Path, vocabulary: Vocabulary, max_words: int, cleaning: Cleaning = "none"
    ) -> "Tokenizer":
        """Read a file in the ``tokenizer.json`` format.

        Args:
            cleaning: what is done to a text before it is encoded.

        Raises:
            ValueError: the file cannot be read.
        """
        tokenizer = cls.__new__(cls)
        try:
            tokenizer._tokenizer = HuggingFaceTokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{path}: not a tokenizer file ({error_reason(error)})") from error
        if vocabulary == "subword":
            tokenizer._tokenizer.no_padding()
            tokenizer._tokenizer.enable_truncation(max_words)
        tokenizer.vocabulary = vocabulary
        tokenizer.max_words = max_words
        tokenizer._clean = find_cleaner(cleaning)
        return tokenizer

    def save(self, path: Path) -> None:
        """Write ``tokenizer.json`` in the Hugging Face format."""
        self._tokenizer.save(str(path))

    @property
    def num_embeddings(self) -> int:
        """Number of token IDs, including padding: the rows of the word-embedding table.

        >>> Tokenizer(["a", "dog"], "paper", max_words=4).num_embeddings  # [PAD], a, dog
        3
        >>> Tokenizer(["a", "dog"], "modern", max_words=4).num_embeddings  # and [UNK]
        4
        """
        size = int(self._tokenizer.get_vocab_size())
        return {"paper": size - 1, "modern": size, "subword": size + 1}[self.vocabulary]

    @property
    def words(self) -> list[str]:
        """The words in the order of their IDs (1, 2, ...), without padding and ``[UNK]``."""
        ids = self._tokenizer.get_vocab()
        return sorted(ids, key=ids.__getitem__)[1:-1]

    def split(self, sentence: str) -> list[str]:
        """Return the normalised words of a sentence, also those outside the vocabulary.

        >>> Tokenizer(["a", "dog"], "modern", max_words=4).split("A dog, a CAT!")
        ['a', 'dog', 'a', 'cat']
        """
        return next(_split(self._tokenizer, [sentence]))

    def encode(self, sentences: Sequence[str]) -> IntArray:
        """Return token IDs, (sentences, max_words) int64, left-aligned and padded with 0."""
        return self.encode_and_mark(sentences)[0]

    def encode_and_mark(self, sentences: Sequence[str]) -> tuple[IntArray, Mask]:
        """Return token IDs as :meth:`encode` does, and which sentences were cut, (sentences,).

        >>> Tokenizer(["a", "dog"], "paper", max_words=2).encode_and_mark(["a dog", "a a dog"])[1]
        array([False,  True])
        """
        token_ids: IntArray = np.zeros((len(sentences), self.max_words), dtype=np.int64)
        is_cut = np.zeros(len(sentences), bool)
        for start in range(0, len(sentences), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            self._encode(list(sentences[chunk]), token_ids[chunk], is_cut[chunk])
        return token_ids, is_cut

    def _encode(self, sentences: list[str], token_ids: IntArray, is_cut: Mask) -> None:
        """Write the IDs of sentences into rows of zeros, and mark the sentences that are cut."""
        if self._clean is not None:
            sentences = [self._clean(sentence) for sentence in sentences]
        if self.vocabulary == "subword":
            encodings = self._tokenizer.encode_batch(sentences)
            for number, encoding in enumerate(encodings):
                token_ids[number, : len(encoding.ids)] = np.asarray(encoding.ids) + 1
                is_cut[number] = bool(encoding.overflowing)
            return
        unknown = self._tokenizer.token_to_id(UNKNOWN) if self.vocabulary == "paper" else 0
        encodings = self._tokenizer.encode_batch(sentences, add_special_tokens=False)
        for number, encoding in enumerate(encodings):
            known = [token_id for token_id in encoding.ids if token_id not in (0, unknown)]
            is_cut[number] = len(known) > self.max_words
            known = known[: self.max_words]
            token_ids[number, : len(known)] = known


def trim_padding(token_ids: IntArray) -> IntArray:
    """Remove the columns on the right that are padding in every row; at least one column remains.

    Args:
        token_ids: (sentences, positions) int64, left-aligned.

    >>> trim_padding(np.array([[3, 0, 0], [1, 2, 0]])).tolist()
    [[3, 0], [1, 2]]
    """
    return token_ids[:, : max(1, int((token_ids != 0).sum(axis=1).max()))]


def count_words(
    sentences: Iterable[str], vocabulary: WordVocabulary, *, split_question_marks: bool = True
) -> Counter[str]:
    """Count the words of sentences, split by a mode, in order of first appearance.

    Args:
        split_question_marks: whether ``?`` ends a word in the ``paper`` mode.

    >>> count_words(["A dog runs.", "a dog"], "modern")
    Counter({'a': 2, 'dog': 2, 'runs': 1})
    """
    tokenizer = HuggingFaceTokenizer(WordLevel({UNKNOWN: 0}, unk_token=UNKNOWN))
    _set_pipeline(tokenizer, vocabulary, split_question_marks)
    counts: Counter[str] = Counter()
    for words in _split(tokenizer, sentences):
        counts.update(words)
    return counts


def modern_vocabulary(counts: Counter[str], min_count: int) -> list[str]:
    """Return the words that occur at least ``min_count`` times, by frequency, then alphabet.

    >>> modern_vocabulary(Counter({"runs": 1, "dog": 2, "a": 2}), min_count=2)
    ['a', 'dog']
    """
    frequent = [(word, count) for word, count in counts.items() if count >= min_count]
    return [word for word, _ in sorted(frequent, key=lambda pair: (-pair[1], pair[0]))]


def _set_pipeline(
    tokenizer: HuggingFaceTokenizer, vocabulary: WordVocabulary, split_question_marks: bool
) -> None:
    if vocabulary == "paper":
        delimiters = (
            _PAPER_DELIMITERS_WITH_QUESTION_MARK if split_question_marks else _PAPER_DELIMITERS
        )
        tokenizer.pre_tokenizer = Split(Regex(delimiters), "removed")
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
