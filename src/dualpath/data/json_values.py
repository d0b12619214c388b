"""Values of metadata: reading them from JSON without surprises, and making other types plain."""

import json
import math
from collections.abc import Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

MAX_DEPTH = 64  # of lists and objects inside each other
MAX_EXACT = 2**53  # above, JavaScript and 64-bit floats round an integer


def parse_json(text: str | bytes) -> Any:
    """Parse JSON whose values every part of this package can use.

    NaN and infinite numbers become None, since JSON has no such values.

    Raises:
        ValueError: the text is not valid JSON, is nested too deeply, or contains half a surrogate
            pair, a NUL character, or a number of more than 4,300 digits.

    >>> parse_json('{"year": NaN, "size": 1e999}')
    {'year': None, 'size': None}
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    try:
        value = json.loads(text, parse_constant=lambda _: None, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg})") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:
        raise ValueError("contains a number with too many digits; write it as text") from error
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if "\\u" in text:
        for part in _texts(value):
            check_text(part)
    return value


def check_text(text: str) -> None:
    """Raise ``ValueError`` if a text contains a NUL character or half a surrogate pair."""
    if "\0" in text:
        raise ValueError(f"{text!r} contains a NUL character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{text!r} is not valid Unicode (half a surrogate pair)") from error


def plain_value(value: Any) -> Any:
    """Return a value of a Parquet file as JSON can have it.

    Dates and times become text as in ISO 8601, whole decimals integers, other decimals floats,
    bytes text, and NaN becomes None.

    >>> plain_value({"seen": date(2024, 6, 1), "price": Decimal("1.50"), "n": float("nan")})
    {'seen': '2024-06-01', 'price': 1.5, 'n': None}
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        if not value.is_finite():
            return None
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, date | time | timedelta):
        return str(value)
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, Mapping):
        return {str(key): plain_value(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain_value(one) for one in value]
    return str(value)


def gallery_value(value: Any) -> Any:
    """Return a value as a gallery stores it: plain, with integers above 2**53 as text.

    >>> gallery_value([1234567890123456789, 7])
    ['1234567890123456789', 7]
    """
    return _exact(plain_value(value))


def gallery_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata as a gallery stores it, without keys that have no value.

    >>> gallery_metadata({"id": 2**60, "year": float("nan"), "colour": None})
    {'id': '1152921504606846976'}
    """
    values = ((str(key), gallery_value(value)) for key, value in metadata.items())
    return {key: value for key, value in values if value is not None}


def _exact(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _exact(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_exact(one) for one in value]
    is_large = isinstance(value, int) and abs(value) > MAX_EXACT
    return _digits(value) if is_large else value


def _digits(number: int) -> str:
    try:
        return str(number)
    except ValueError:  # Python refuses more than 4,300 digits
        return hex(number)


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, list) else []


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += any(isinstance(one, dict | list) for one in level)
        level = [child for one in level for child in _children(one)]
    return depth


def _texts(value: Any) -> Iterator[str]:
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            yield one
        pending += _children(one)
