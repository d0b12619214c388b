"""Filters over metadata: a small, safe part of SQL, read into a tree before any engine sees it.

``colour = 'red' and (year >= 2020 or not sold = true)``: comparisons (``= != < <= > >=``) of a
field with a text, a number or ``true``/``false``; ``in (...)``; ``is null``, ``is not null``;
``and``, ``or``, ``not``, parentheses. A field whose name is no plain word stands in double quotes.
A comparison with a value that a picture does not have is false, and so is its negation.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from dualpath.gallery.errors import FilterError

Kind = Literal["text", "number", "boolean"]
Value = str | float | bool
Node = Any  # of sqlglot, whose base class has another name in each version
_LONGEST = 2000
_MOST_TERMS = 100
_KIND_OF: dict[type, Kind] = {str: "text", float: "number", bool: "boolean"}
_OPPOSITE = {"=": "!=", "!=": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_MIRRORED = {"=": "=", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
_OPERATORS: dict[type, str] = {
    exp.EQ: "=",
    exp.NEQ: "!=",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
}


@dataclass(frozen=True)
class Field:
    """A metadata key that can be filtered by: its column in the store and what it holds."""

    column: str
    kind: Kind


@dataclass(frozen=True)
class Comparison:
    """``column operator value``."""

    column: str
    operator: str
    value: Value


@dataclass(frozen=True)
class Missing:
    """``column is null``, or ``is not null``."""

    column: str
    missing: bool


@dataclass(frozen=True)
class Group:
    """Conditions of which all (``and``) or any (``or``) must hold."""

    word: Literal["and", "or"]
    parts: tuple["Condition", ...]


Condition = Comparison | Missing | Group


def parse_filter(text: str, fields: Mapping[str, Field]) -> Condition:
    """Read a filter.

    Args:
        text: as the module's documentation tells.
        fields: by metadata key.

    Raises:
        FilterError: it is no filter, asks for more than the subset, names an unknown field, or
            compares a field with a value of another kind.
    """
    if len(text) > _LONGEST:
        raise FilterError(f"the filter is longer than {_LONGEST:,} characters")
    try:
        tree = sqlglot.parse_one(text)
        terms = sum(1 for _ in tree.find_all(exp.Column))
        if terms > _MOST_TERMS:
            raise FilterError(f"the filter has more than {_MOST_TERMS} comparisons")
        return _Reader(text, fields).read(tree, wanted=True)
    except (SqlglotError, RecursionError, ValueError) as error:
        if isinstance(error, FilterError):
            raise
        raise FilterError(
            f"not a filter: {text!r}; write, for example, colour = 'red' and year >= 2020"
        ) from error


@dataclass(frozen=True)
class _Reader:
    text: str
    fields: Mapping[str, Field]

    def read(self, node: Node, *, wanted: bool) -> Condition:
        """Read a node; ``not`` is moved inwards, as missing values would make engines differ."""
        if isinstance(node, exp.Paren):
            return self.read(node.this, wanted=wanted)
        if isinstance(node, exp.Not):
            return self.read(node.this, wanted=not wanted)
        if isinstance(node, exp.And | exp.Or):
            word: Literal["and", "or"] = "and" if isinstance(node, exp.And) == wanted else "or"
            parts = (self.read(part, wanted=wanted) for part in (node.left, node.right))
            return Group(word, tuple(parts))
        if isinstance(node, exp.In) and node.expressions:
            equal = "=" if wanted else "!="
            some = tuple(self._comparison(node.this, equal, v) for v in node.expressions)
            return Group("or" if wanted else "and", some)
        if isinstance(node, exp.Is) and isinstance(node.expression, exp.Null):
            return Missing(self._field(node.this).column, missing=wanted)
        if isinstance(node, exp.Binary) and type(node) in _OPERATORS:
            operator = _OPERATORS[type(node)]
            operator = operator if wanted else _OPPOSITE[operator]
            if isinstance(node.right, exp.Column):
                return self._comparison(node.right, _MIRRORED[operator], node.left)
            return self._comparison(node.left, operator, node.right)
        raise FilterError(
            f"a filter knows comparisons, in, is null, and, or, not; not {node.sql()!r}"
        )

    def _comparison(self, left: Node, operator: str, right: Node) -> Condition:
        field, value = self._field(left), self._value(right)
        kind = _KIND_OF[type(value)]
        if kind != field.kind:
            raise FilterError(
                f"'{left.sql()}' holds {field.kind} values; it cannot be compared with the "
                f"{kind} {right.sql()}"
            )
        if kind == "boolean" and operator not in ("=", "!="):
            raise FilterError(f"'{left.sql()}' is true or false; compare it with = or !=")
        return Comparison(field.column, operator, value)

    def _field(self, node: Node) -> Field:
        if not isinstance(node, exp.Column) or node.table:
            raise FilterError(f"{node.sql()!r} is no field; a filter compares fields with values")
        if node.name not in self.fields:
            known = ", ".join(sorted(self.fields)) or "none"
            raise FilterError(f"no picture has the field '{node.name}' (there are: {known})")
        return self.fields[node.name]

    def _value(self, node: Node) -> Value:
        if isinstance(node, exp.Boolean):
            return bool(node.this)
        if isinstance(node, exp.Literal):
            return str(node.this) if node.is_string else float(node.this)
        if isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal) and node.this.is_number:
            return -float(node.this.this)
        raise FilterError(f"{node.sql()!r} is no value; write a 'text', a number, true or false")


def sql(condition: Condition) -> str:
    """Write a condition for an engine that reads SQL."""
    return _write(condition, _sql_comparison, _sql_missing)


def milvus_expression(condition: Condition) -> str:
    """Write a condition for Milvus, whose fields are dynamic: one may be missing."""
    return _write(condition, _milvus_comparison, _milvus_missing)


def _write(
    condition: Condition,
    comparison: Callable[[Comparison], str],
    missing: Callable[[Missing], str],
) -> str:
    if isinstance(condition, Comparison):
        return comparison(condition)
    if isinstance(condition, Missing):
        return missing(condition)
    parts = (f"({_write(part, comparison, missing)})" for part in condition.parts)
    return f" {condition.word} ".join(parts)


def _sql_comparison(c: Comparison) -> str:
    value = "'" + c.value.replace("'", "''") + "'" if isinstance(c.value, str) else _plain(c.value)
    return f"{c.column} {c.operator} {value}"


def _sql_missing(c: Missing) -> str:
    return f"{c.column} is {'' if c.missing else 'not '}null"


def _milvus_comparison(c: Comparison) -> str:
    value = json.dumps(c.value, ensure_ascii=False) if isinstance(c.value, str) else _plain(c.value)
    operator = "==" if c.operator == "=" else c.operator
    return f"(exists {c.column}) and ({c.column} {operator} {value})"


def _milvus_missing(c: Missing) -> str:
    return f"{'not ' if c.missing else ''}(exists {c.column})"


def _plain(value: float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
