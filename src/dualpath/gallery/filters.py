"""Conditions of filters over image metadata, and how stores write them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "number", "boolean"]
Value = str | float | bool


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
