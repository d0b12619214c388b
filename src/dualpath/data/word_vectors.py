"""Reading word vectors: word2vec's binary format, and the text format of GloVe and fastText.

Both are read in one pass that keeps only the wanted words, so a file of 3,000,000 x 300 numbers
costs the time to read it and the memory of the words that are kept.
"""

from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

_CHUNK = 1 << 20


class WordVectorError(ValueError):
    """A word-vector file that cannot be read; the message names it."""


def read_word_vectors(
    path: Path, words: Collection[str] | None = None
) -> dict[str, npt.NDArray[np.float32]]:
    """Read the vectors of ``words`` (default: of every word), in the order of the file.

    The format is told by the content: a first line of two numbers (words, dimension) followed by
    bytes is word2vec's binary format, the same line followed by text is fastText's, and no such
    line is GloVe's.

    Returns:
        word to float32 vector; of a word that occurs twice, the first.

    Raises:
        WordVectorError: the file cannot be read, is cut short, or its lines disagree.
    """
    wanted = None if words is None else frozenset(words)
    try:
        with path.open("rb") as file:
            header = file.readline(1 << 16)
            shape = _header(header)
            if shape is None:
                file.seek(0)
                return _read_text(file, path, wanted, dim=None)
            position = file.tell()
            if _looks_binary(file.read(4096)):
                file.seek(position)
                return _read_binary(file, path, wanted, *shape)
            file.seek(position)
            return _read_text(file, path, wanted, dim=shape[1])
    except OSError as error:
        raise WordVectorError(f"{path}: cannot be read ({error.strerror})") from error


def _header(line: bytes) -> tuple[int, int] | None:
    parts = line.split()
    if len(parts) == 2 and all(part.isdigit() for part in parts):
        return int(parts[0]), int(parts[1])
    return None


def _looks_binary(sample: bytes) -> bool:
    """Text vectors hold no control characters but line ends; raw floats hold them at once."""
    return any(byte < 32 and byte not in b"\t\n\r" for byte in sample)


def _read_binary(
    file: BinaryIO, path: Path, wanted: frozenset[str] | None, count: int, dim: int
) -> dict[str, npt.NDArray[np.float32]]:
    vectors: dict[str, npt.NDArray[np.float32]] = {}
    width = 4 * dim
    buffer, offset = file.read(_CHUNK), 0
    for number in range(count):
        end = buffer.find(b" ", offset)
        while end < 0 or len(buffer) < end + 1 + width:
            more = file.read(_CHUNK)
            if not more:
                raise WordVectorError(
                    f"{path}: cut short after {number:,} of {count:,} words; fetch it again"
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
) -> dict[str, npt.NDArray[np.float32]]:
    vectors: dict[str, npt.NDArray[np.float32]] = {}
    for number, line in enumerate(file, start=1):
        if dim is None:
            dim = len(line.split()) - 1
            if dim < 1:
                raise WordVectorError(f"{path}:{number}: a line is a word and its numbers")
        # Words of some files hold spaces (GloVe 840B), so the numbers are counted from the right.
        parts = line.rstrip().rsplit(b" ", dim)
        word = parts[0].decode("utf-8", errors="replace")
        if wanted is not None and word not in wanted:
            continue
        try:
            vector = np.array(parts[1:], dtype=np.float32)
        except ValueError as error:
            raise WordVectorError(f"{path}:{number}: holds something that is no number") from error
        if len(vector) != dim:
            raise WordVectorError(
                f"{path}:{number}: {len(vector)} numbers, where the lines before have {dim}"
            )
        vectors.setdefault(word, vector)
    return vectors
