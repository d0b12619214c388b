"""The captions of a split as token IDs, and files of captions without images."""

import hashlib
import itertools
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualpath.data.json_values import parse_json
from dualpath.data.memmap import open_memmap
from dualpath.data.table import ImageTable
from dualpath.data.tokenizer import Tokenizer, trim_padding
from dualpath.errors import CaptionFileError
from dualpath.types import IntArray
from dualpath.utils.text import error_reason
from dualpath.utils.text_files import read_lines

_CHUNK = 10_000  # captions encoded at a time
_DTYPE = np.dtype("<i4")


@dataclass(frozen=True)
class CaptionTable:
    """The encoded captions of the images of a split.

    Attributes:
        token_ids: (captions, max_words) int32, memory-mapped.
        first: (images + 1,) int64. The captions of image i are rows first[i] to first[i + 1].
        instance_ids: (images,) int64, numbered by first appearance.
        cut: number of captions with more words than the tokenizer encodes.
    """

    token_ids: npt.NDArray[np.int32]
    first: IntArray
    instance_ids: IntArray
    cut: int = 0

    @property
    def instances(self) -> int:
        """Number of instances, the classes of the instance loss."""
        return int(self.instance_ids.max()) + 1

    def tokens_of(self, captions: IntArray) -> IntArray:
        """Return the token IDs of captions, (captions, words) int64, cut to the longest."""
        return trim_padding(np.asarray(self.token_ids[captions], np.int64))

    def captions_of(self, image: int) -> IntArray:
        """Return the rows of an image's captions."""
        return np.arange(self.first[image], self.first[image + 1])

    def captions_of_instance(self, image: int) -> IntArray:
        """Return the rows of the captions of all images of the image's instance."""
        begin, end = np.searchsorted(self._sorted_instances, self.instance_ids[image] + [0, 1])
        return np.concatenate([self.captions_of(i) for i in self._by_instance[begin:end]])

    @cached_property
    def _by_instance(self) -> IntArray:
        return np.argsort(self.instance_ids, kind="stable")

    @cached_property
    def _sorted_instances(self) -> IntArray:
        return self.instance_ids[self._by_instance]

    @cached_property
    def owners(self) -> IntArray:
        """The image of each caption, (captions,) int64."""
        return np.repeat(np.arange(len(self.instance_ids)), np.diff(self.first))


def tabulate_captions(images: ImageTable, tokenizer: Tokenizer, cache: Path) -> CaptionTable:
    """Encode the captions of images into a file of the cache folder.

    The name of the file is a hash of its content, so equal captions share one file.
    """
    first = np.concatenate([[0], np.cumsum(images.caption_counts)])
    shape = int(first[-1]), tokenizer.max_words
    digest = hashlib.blake2b(digest_size=16)
    captions, cut = images.captions, 0
    folder = cache / "captions"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        encoded = Path(scratch) / "encoded"
        with encoded.open("wb") as file:
            while chunk := list(itertools.islice(captions, _CHUNK)):
                token_ids, is_cut = tokenizer.encode_and_mark(chunk)
                cut += int(is_cut.sum())
                rows = token_ids.astype(_DTYPE).tobytes()
                digest.update(rows)
                file.write(rows)
        path = folder / f"{digest.hexdigest()}-{shape[1]}.i32"
        encoded.replace(path)
    return CaptionTable(open_memmap(path, _DTYPE, shape), first, images.instance_ids, cut)


def cut_captions_message(cut: int, max_words: int) -> str:
    """Return a line that says how many captions are longer than a text encoder reads.

    >>> cut_captions_message(2, 16)
    '2 captions have more than 16 words; what follows is cut off (text_encoder.max_words)'
    """
    count = "1 caption has" if cut == 1 else f"{cut:,} captions have"
    return f"{count} more than {max_words} words; what follows is cut off (text_encoder.max_words)"


def read_captions(path: Path) -> list[str]:
    """Read a text file with one caption per line, or JSON Lines with ``captions`` or ``text``.

    Raises:
        CaptionFileError: the file cannot be read.
    """
    number = 0
    captions: list[str] = []
    try:
        for line in map(str.strip, read_lines(path)):
            number += 1  # for the message
            if line:
                captions += _captions(parse_json(line)) if path.suffix == ".jsonl" else [line]
    except (OSError, ValueError) as error:
        reason = error_reason(error)
        where = f"{path}:{number}" if number else str(path)
        raise CaptionFileError(f"{where}: captions cannot be read ({reason})") from error
    return captions


def _captions(row: Any) -> list[str]:
    if not isinstance(row, dict):
        raise ValueError("a row must be a JSON object")  # noqa: TRY004
    captions = row.get("captions", row.get("text"))
    captions = [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
        raise ValueError("no list of sentences 'captions', and no sentence 'text'")
    return captions
