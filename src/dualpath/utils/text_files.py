"""Text files of other programs: their encoding, and which line cannot be decoded."""

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_BYTE_ORDER_MARKS = (  # the longer ones first
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """Open a text file as UTF-8, or as its byte order mark says, which is left out.

    Args:
        newline: as in :func:`open`.

    Raises:
        ValueError: the file is not in this encoding; the message names the line.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        encoding = text_encoding(file.read(4))
    try:
        with path.open(encoding=encoding, newline=newline) as text:
            yield text
    except UnicodeDecodeError as error:
        raise ValueError(_encoding_problem(path, error, encoding)) from error


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file without their ends; see :func:`open_text`.

    Only ``\\n``, ``\\r`` and ``\\r\\n`` end a line. ``str.splitlines`` would also split at U+2028
    and other characters that captions contain.
    """
    with open_text(path) as file:
        return [line.rstrip("\n") for line in file]


def decode_text(content: bytes) -> str:
    """Decode the bytes of a text file as :func:`open_text` does.

    >>> decode_text(b"\\xef\\xbb\\xbfa dog")
    'a dog'

    Raises:
        ValueError: they are not in this encoding.
    """
    return content.decode(text_encoding(content[:4]))


def split_lines(text: str) -> list[str]:
    """Return the lines of a text; see :func:`read_lines`.

    >>> split_lines("a dog\\r\\na cat\\u2028on a mat")
    ['a dog', 'a cat\\u2028on a mat']
    """
    return [line.rstrip("\n") for line in io.StringIO(text, newline=None)]


def text_encoding(start: bytes) -> str:
    """Return the encoding of a file by its first four bytes.

    >>> text_encoding(b"\\xff\\xfea\\x00"), text_encoding(b"text")
    ('utf-16', 'utf-8')
    """
    marks = (encoding for mark, encoding in _BYTE_ORDER_MARKS if start.startswith(mark))
    return next(marks, "utf-8")


def _encoding_problem(path: Path, error: UnicodeDecodeError, encoding: str) -> str:
    if not encoding.startswith("utf-8"):
        return f"{path}: not {encoding.upper()} ({error.reason}); save the file as UTF-8"
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as wrong:
                byte = f"0x{line[wrong.start]:02x}"
                return f"{path}:{number}: not UTF-8 (byte {byte}); save the file as UTF-8"
    return f"{path}: not UTF-8 ({error.reason}); save the file as UTF-8"
