"""Filters over the fields of a part."""

import operator
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dualpath.gallery.filters import Comparison, Condition, NullTest
from dualpath.types import Mask

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


def evaluate(condition: Condition, fields: Mapping[str, pa.ChunkedArray], rows: int) -> Mask:
    """Return for each row whether a condition is true, (rows,).

    Args:
        condition: the parsed filter.
        fields: the columns. A column that is missing has no values.
        rows: number of rows.

    >>> fields = {"field_0": pa.chunked_array([[2019.0, None, 2021.0]])}
    >>> evaluate(Comparison("field_0", ">", 2020.0), fields, 3).tolist()
    [False, False, True]
    """
    if isinstance(condition, Comparison):
        column = fields.get(condition.column)
        if column is None:
            return np.zeros(rows, bool)
        return _to_mask(_COMPARE[condition.operator](column, condition.value))
    if isinstance(condition, NullTest):
        column = fields.get(condition.column)
        null = np.ones(rows, bool) if column is None else _to_mask(pc.is_null(column))
        return null if condition.is_null else ~null
    masks = [evaluate(part, fields, rows) for part in condition.conditions]
    return reduce(operator.and_ if condition.operator == "and" else operator.or_, masks)


def _to_mask(values: pa.ChunkedArray) -> Mask:
    mask: Mask = pc.fill_null(values, False).to_numpy().astype(bool, copy=False)
    return mask
