"""Reading CSV files of any spreadsheet program, and refusing those that would be read wrongly."""

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from dualpath.data.json_values import parse_json
from dualpath.utils.text_files import open_text

Row = dict[str, str]  # by column; an empty cell is an empty text
_DELIMITERS = ",;\t|"
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?")  # not 007, which is a code
_NO_NUMBER = ("", "nan")


def read_csv(path: Path, known: Sequence[str], problems: list[str]) -> Iterator[tuple[int, Row]]:
    """Yield (line, row) of a CSV file.

    The delimiter (comma, semicolon, tab or ``|``) is the one with which the header contains the
    most of the ``known`` columns. A first line ``sep=;`` is read. The encoding is UTF-8, or UTF-16
    with a byte order mark.

    Args:
        known: names of columns, in lower case.
        problems: a message is added for each row with more cells than the header.

    Raises:
        ValueError: the file cannot be read as a table; the message names the line.
        OSError: the file cannot be read.
    """
    with open_text(path, newline="") as file:
        delimiter, skipped = _delimiter(file, known)
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        header: list[str] = []
        start = skipped + 1
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise ValueError(f"{path}:{start}: {_reason(error)}") from error
            line, start = start, skipped + reader.line_num + 1
            if any("\0" in cell for cell in cells):
                raise ValueError(f"{path}:{line}: contains a NUL character; save it as UTF-8")
            if not header:
                header = _header(cells, path, line)
            elif any(cell.strip() for cell in cells[len(header) :]):
                problems.append(
                    f"{path}:{line}: has {len(cells)} cells, but the header has {len(header)}; put "
                    f'a text that contains {delimiter!r} into quotes ("...")'
                )
            elif any(cells):
                complete = cells + [""] * (len(header) - len(cells))
                yield line, {k: v for k, v in zip(header, complete, strict=False) if k}


def number_columns(rows: Iterator[Row], text_columns: Sequence[str]) -> set[str]:
    """Return the columns whose cells are numbers or empty, without those of ``text_columns``."""
    numbers: set[str] = set()
    texts = set(text_columns)
    for row in rows:
        for key, cell in row.items():
            if key in texts or cell.strip().lower() in _NO_NUMBER:
                continue
            if _NUMBER.fullmatch(cell.strip()):
                numbers.add(key)
            else:
                texts.add(key)
    return numbers - texts


def typed_row(row: Row, numbers: set[str]) -> dict[str, str | float | None]:
    """Return a row with numbers in the columns of ``numbers``; an empty cell becomes None.

    >>> typed_row({"year": "1990", "code": "007", "colour": ""}, {"year"})
    {'year': 1990, 'code': '007', 'colour': None}
    """
    return {
        key: (parse_json(cell.strip()) if _is_number(cell) else None)
        if key in numbers
        else (cell or None)
        for key, cell in row.items()
    }


def _is_number(cell: str) -> bool:
    return cell.strip().lower() not in _NO_NUMBER


def _delimiter(file: TextIO, known: Sequence[str]) -> tuple[str, int]:
    """Return the delimiter, and how many lines were skipped; the file is at the header."""
    first = file.readline()
    text = first.rstrip("\r\n").strip('"')
    if text.lower().startswith("sep=") and len(text) == len("sep=x"):
        return text[-1], 1
    file.seek(0)

    def score(delimiter: str) -> tuple[int, int]:
        names = [name.strip(' "\r\n').lower() for name in first.split(delimiter)]
        return sum(name in known for name in names), len(names)

    return max(_DELIMITERS, key=score), 0


def _header(cells: list[str], path: Path, line: int) -> list[str]:
    header = [cell.strip() for cell in cells]
    for name in header:
        if name and header.count(name) > 1:
            raise ValueError(f"{path}:{line}: has two columns '{name}'; rename or remove one")
    return header


def _reason(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end of data" in text:
        return 'a quoted cell that begins in this row is not closed; add the missing "'
    if "expected after" in text:
        return (
            'a quoted cell of this row is followed by other text; close its quotes, and write "" '
            "for a quote inside of them"
        )
    return f"cannot be read ({text})"
