"""Pieces of messages for people."""

from collections.abc import Sequence

_REASON_LENGTH = 200  # characters


def error_reason(error: BaseException, length: int = _REASON_LENGTH) -> str:
    """Return the message of an error on one line, shortened at a word.

    >>> error_reason(ValueError("first line\\n  second line"))
    'first line second line'
    >>> error_reason(ValueError())
    'ValueError'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    if len(text) <= length:
        return text
    return text[:length].rsplit(" ", 1)[0] + " ..."


def first_n_and_more(names: Sequence[str], n: int, separator: str = ", ") -> str:
    """Join the first ``n`` names and count the others.

    >>> first_n_and_more(["a", "b", "c", "d"], 2)
    'a, b and 2 more'
    """
    shown = separator.join(names[:n])
    more = len(names) - n
    return f"{shown} and {more:,} more" if more > 0 else shown


def first_n_lines(lines: Sequence[str], n: int) -> str:
    """Join the first ``n`` lines and count the others on a last line.

    >>> print(first_n_lines(["a", "b", "c"], 1))
    a
    ... and 2 more
    """
    more = len(lines) - n
    return "\n".join([*lines[:n], *([f"... and {more:,} more"] if more > 0 else [])])
