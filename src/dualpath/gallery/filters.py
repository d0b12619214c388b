"""Filters over image metadata: a small part of SQL, parsed before a store runs it.

Example: ``colour = 'red' and (year >= 2020 or not sold = true)``. A filter contains:

- comparisons (``= != < <= > >=``) of a field with a text, a number, ``true`` or ``false``,
- ``field in (value, ...)``, ``field is null`` and ``field is not null``,
- ``and``, ``or``, ``not`` and parentheses.

Text values are in single quotes. Field names that are not plain words are in double quotes. If an
image has no value for a field, every comparison with that field is false, and so is its negation.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from dualpath.errors import FilterError

Kind = Literal["text", "number", "boolean"]
Value = str | float | bool
_MAX_LENGTH = 2000  # characters


@dataclass(frozen=True)
class Field:
    """A metadata key that filters can use.

    Attributes:
        column: its column in the store.
        kind: the type of its values.
    """

    column: str
    kind: Kind


@dataclass(frozen=True)
class Comparison:
    """``column operator value``."""

    column: str
    operator: str
    value: Value


@dataclass(frozen=True)
class NullTest:
    """``column is null`` (``is_null=True``) or ``column is not null``."""

    column: str
    is_null: bool


@dataclass(frozen=True)
class Group:
    """Conditions of which all (``and``) or at least one (``or``) must be true."""

    operator: Literal["and", "or"]
    conditions: tuple["Condition", ...]


Condition = Comparison | NullTest | Group


def parse_filter(text: str, fields: Mapping[str, Field]) -> Condition:
    """Parse a filter.

    Args:
        text: in the syntax that the documentation of this module describes.
        fields: the known fields, by metadata key.

    Raises:
        FilterError: the text is not a filter, uses SQL outside of the subset, names an unknown
            field, or compares a field with a value of another type.

    >>> parse_filter("year > 2020", {"year": Field("field_0", "number")})
    Comparison(column='field_0', operator='>', value=2020.0)
    """
    if len(text) > _MAX_LENGTH:
        raise FilterError(f"the filter is longer than {_MAX_LENGTH:,} characters")
    from dualpath.gallery.filter_parser import parse  # its library takes 0.1 s to import

    return parse(text, fields)


def render_condition(
    condition: Condition,
    comparison: Callable[[Comparison], str],
    null_test: Callable[[NullTest], str],
) -> str:
    """Write a condition in the language of a store.

    Args:
        condition: the parsed filter.
        comparison: writes one comparison.
        null_test: writes one test for null.

    >>> year = Comparison("year", ">", 2020.0)
    >>> both = Group("and", (year, NullTest("sold", is_null=True)))
    >>> render_condition(both, lambda c: f"{c.column} {c.operator} {c.value}", lambda n: n.column)
    '(year > 2020.0) and (sold)'
    """
    if isinstance(condition, Comparison):
        return comparison(condition)
    if isinstance(condition, NullTest):
        return null_test(condition)
    parts = (f"({render_condition(part, comparison, null_test)})" for part in condition.conditions)
    return f" {condition.operator} ".join(parts)


def render_literal(value: float | bool) -> str:
    """Write a number or a boolean, which look alike in the languages of all stores."""
    return str(value).lower() if isinstance(value, bool) else repr(value)
