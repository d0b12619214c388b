"""Reading word vectors: word2vec's binary format, and the text format of GloVe and fastText.

A file is read in one pass, and only the vectors of the requested words are stored. So a file of
3,000,000 x 300 numbers takes the time to read it, and the memory of the requested words.
"""

from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dualpath.errors import WordVectorError
from dualpath.types import Vectors

_CHUNK = 1 << 20  # bytes read at a time
_HEADER_BYTES = 1 << 16  # of the first line, at most
_SAMPLE_BYTES = 4096  # from which text and binary are distinguished


def read_word_vectors(path: Path, words: Collection[str] | None = None) -> dict[str, Vectors]:
    """Read the vectors of ``words`` (default: all words), in the order of the file.

    The format follows from the content. The formats of word2vec and fastText begin with a line of
    two numbers (count of words, dimension); bytes follow in word2vec's binary format, and text in
    fastText's. GloVe's format has no such line.

    Returns:
        Word to vector, (dim,) float32. Of a word that occurs twice, the first vector.

    Raises:
        WordVectorError: the file cannot be read or is cut short, or its lines differ in length.
    """
    wanted = None if words is None else frozenset(words)
    try:
        with path.open("rb") as file:
            shape = _parse_header(file.readline(_HEADER_BYTES))
            if shape is None:
                file.seek(0)
                return _read_text(file, path, wanted, dim=None)
            position = file.tell()
            binary = _is_binary(file.read(_SAMPLE_BYTES))
            file.seek(position)
            if binary:
                return _read_binary(file, path, wanted, *shape)
            return _read_text(file, path, wanted, dim=shape[1])
    except OSError as error:
        raise WordVectorError(f"{path}: cannot be read ({error.strerror})") from error


def _parse_header(line: bytes) -> tuple[int, int] | None:
    """Return the count of words and the dimension, if the line has these two numbers.

    >>> _parse_header(b"3000000 300"), _parse_header(b"the 0.1 0.2")
    ((3000000, 300), None)
    """
    parts = line.split()
    if len(parts) == 2 and all(part.isdigit() for part in parts):
        return int(parts[0]), int(parts[1])
    return None


def _is_binary(sample: bytes) -> bool:
    """Return whether a sample has control characters other than tabs and line ends."""
    return any(byte < 32 and byte not in b"\t\n\r" for byte in sample)


def _read_binary(
    file: BinaryIO, path: Path, wanted: frozenset[str] | None, count: int, dim: int
) -> dict[str, Vectors]:
    vectors: dict[str, Vectors] = {}
    width = 4 * dim
    buffer, offset = file.read(_CHUNK), 0
    for number in range(count):
        end = buffer.find(b" ", offset)
        while end < 0 or len(buffer) < end + 1 + width:
            more = file.read(_CHUNK)
            if not more:
                raise WordVectorError(
                    f"{path}: cut short after {number:,} of {count:,} words; download it again"
                )
            buffer, offset = buffer[offset:] + more, 0
            end = buffer.find(b" ", offset)
        word = buffer[offset:end].lstrip(b"\n").decode("utf-8", errors="replace")
        if wanted is None or word in wanted:
            vector = np.frombuffer(buffer, dtype="<f4", count=dim, offset=end + 1)
            vectors.setdefault(word, vector.astype(np.float32))
        offset = end + 1 + width
    return vectors


def _read_text(
    file: BinaryIO, path: Path, wanted: frozenset[str] | None, dim: int | None
) -> dict[str, Vectors]:
    vectors: dict[str, Vectors] = {}
    for number, line in enumerate(file, start=1):
        if dim is None:
            dim = len(line.split()) - 1
            if dim < 1:
                raise WordVectorError(f"{path}:{number}: a line must be a word and its numbers")
        # Some words contain spaces (GloVe 840B), so the numbers are counted from the right.
        parts = line.rstrip().rsplit(b" ", dim)
        word = parts[0].decode("utf-8", errors="replace")
        if wanted is not None and word not in wanted:
            continue
        try:
            vector = np.array(parts[1:], dtype=np.float32)
        except ValueError as error:
            raise WordVectorError(f"{path}:{number}: a value is not a number") from error
        if len(vector) != dim:
            raise WordVectorError(
                f"{path}:{number}: {len(vector)} numbers, but the lines before have {dim}"
            )
        vectors.setdefault(word, vector)
    return vectors
