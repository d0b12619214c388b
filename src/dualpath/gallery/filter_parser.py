"""Filters over image metadata: a small part of SQL, parsed before a store runs it.

Example: ``colour = 'red' and (year >= 2020 or not sold = true)``. A filter contains:

- comparisons (``= != < <= > >=``) of a field with a text, a number, ``true`` or ``false``,
- ``field in (value, ...)``, ``field is null`` and ``field is not null``,
- ``and``, ``or``, ``not`` and parentheses.

Text values are in single quotes. Field names that are not plain words are in double quotes. If an
image has no value for a field, every comparison with that field is false, and so is its negation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from dualpath.errors import FilterError
from dualpath.gallery.filters import Comparison, Condition, Field, Group, Kind, NullTest, Value

Node = Any  # a node of sqlglot, whose base class has another name in each version
_MAX_LENGTH = 2000  # characters
_MAX_COMPARISONS = 100
_KIND_OF: dict[type, Kind] = {str: "text", float: "number", bool: "boolean"}
_NEGATED = {"=": "!=", "!=": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_MIRRORED = {"=": "=", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
_OPERATORS: dict[type, str] = {
    exp.EQ: "=",
    exp.NEQ: "!=",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
}


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
    try:
        tree = sqlglot.parse_one(text)
        if sum(1 for _ in tree.find_all(exp.Column)) > _MAX_COMPARISONS:
            raise FilterError(f"the filter has more than {_MAX_COMPARISONS} comparisons")
        return _Parser(fields).parse(tree, negated=False)
    except (SqlglotError, RecursionError, ValueError) as error:
        if isinstance(error, FilterError):
            raise
        raise FilterError(
            f"not a filter: {text!r}; write, for example, colour = 'red' and year >= 2020"
        ) from error


@dataclass(frozen=True)
class _Parser:
    """Turns a tree of sqlglot into a condition.

    ``not`` is pushed down to the comparisons, because stores differ in how they negate a
    comparison with a missing value.
    """

    fields: Mapping[str, Field]

    def parse(self, node: Node, *, negated: bool) -> Condition:
        if isinstance(node, exp.Paren):
            return self.parse(node.this, negated=negated)
        if isinstance(node, exp.Not):
            return self.parse(node.this, negated=not negated)
        if isinstance(node, exp.And | exp.Or):
            operator: Literal["and", "or"] = "or" if isinstance(node, exp.And) == negated else "and"
            parts = (self.parse(part, negated=negated) for part in (node.left, node.right))
            return Group(operator, tuple(parts))
        if isinstance(node, exp.In) and node.expressions:
            equal = "!=" if negated else "="
            tests = (self._comparison(node.this, equal, value) for value in node.expressions)
            return Group("and" if negated else "or", tuple(tests))
        if isinstance(node, exp.Is) and isinstance(node.expression, exp.Null):
            return NullTest(self._field(node.this).column, is_null=not negated)
        if isinstance(node, exp.Binary) and type(node) in _OPERATORS:
            symbol = _OPERATORS[type(node)]
            symbol = _NEGATED[symbol] if negated else symbol
            if isinstance(node.right, exp.Column):
                return self._comparison(node.right, _MIRRORED[symbol], node.left)
            return self._comparison(node.left, symbol, node.right)
        raise FilterError(
            "a filter consists of comparisons, in, is null, and, or, not; "
            f"it cannot contain {node.sql()!r}"
        )

    def _comparison(self, left: Node, operator: str, right: Node) -> Condition:
        field, value = self._field(left), self._value(right)
        kind = _KIND_OF[type(value)]
        if kind != field.kind:
            raise FilterError(
                f"'{left.sql()}' has {field.kind} values; it cannot be compared with the "
                f"{kind} {right.sql()}"
            )
        if kind == "boolean" and operator not in ("=", "!="):
            raise FilterError(f"'{left.sql()}' is true or false; compare it with = or !=")
        return Comparison(field.column, operator, value)

    def _field(self, node: Node) -> Field:
        if not isinstance(node, exp.Column) or node.table:
            raise FilterError(
                f"{node.sql()!r} is not a field; a filter compares fields with values"
            )
        if node.name not in self.fields:
            known = ", ".join(sorted(self.fields)) or "none"
            raise FilterError(f"no image has the field '{node.name}' (fields: {known})")
        return self.fields[node.name]

    def _value(self, node: Node) -> Value:
        if isinstance(node, exp.Boolean):
            return bool(node.this)
        if isinstance(node, exp.Literal):
            return str(node.this) if node.is_string else float(node.this)
        if isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal) and node.this.is_number:
            return -float(node.this.this)
        raise FilterError(f"{node.sql()!r} is not a value; write a 'text', a number, true or false")
