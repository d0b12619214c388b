"""Filters: both stores and plain Python agree on their meaning."""

import uuid
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dualpath.errors import FilterError
from dualpath.gallery.filter_parser import parse_filter
from dualpath.gallery.filters import Comparison, Field
from dualpath.gallery.schema import CAPTIONS, IMAGES, GalleryImage, to_rows
from dualpath.gallery.stores.base import Store
from dualpath.gallery.stores.factory import open_store
from dualpath.gallery.stores.lance import to_sql
from tests.gallery.conftest import ON_MILVUS

Row = dict[str, object]
Test = Callable[[Row], bool]

FIELDS = {
    "colour": Field("field_0", "text"),
    "year": Field("field_1", "number"),
    "a key": Field("field_2", "boolean"),
}
TEXTS = ["red", "it's", 'say "hi"', "x or 1=1 --", "", "grün", "\\", "100%"]
ROWS: list[Row] = [
    {"colour": colour, "year": year, "a key": flag}
    for colour in (*TEXTS[:5], None)
    for year in (None, -3, 2020.5)
    for flag in (None, True, False)
]
COMPARE = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def quote(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


@st.composite
def comparisons(draw: st.DrawFn) -> tuple[str, Test, Test]:
    name, values, literal, operators = draw(
        st.sampled_from(
            [
                ("colour", st.sampled_from(TEXTS), quote, ["=", "!="]),
                ("year", st.sampled_from([-3, 0, 2020.5, 7]), str, list(COMPARE)),
                ("a key", st.booleans(), lambda v: str(v).lower(), ["=", "!="]),
            ]
        )
    )
    value, operator = draw(values), draw(st.sampled_from(operators))
    shown = f'"{name}"' if " " in name else name
    return (
        f"{shown} {operator} {literal(value)}",
        lambda row: row[name] is not None and COMPARE[operator](row[name], value),
        lambda row: row[name] is not None,
    )


@st.composite
def filters(draw: st.DrawFn, depth: int = 3) -> tuple[str, Test, Test]:
    """A filter, whether it is true of a row, and whether it is known of a row.

    A filter is unknown if missing values leave open whether it is true (three-valued logic).
    """
    kind = draw(st.sampled_from(["comparison", "comparison", "null", "not", "and", "or"]))
    if depth == 0 or kind == "comparison":
        return draw(comparisons())
    if kind == "null":
        name = draw(st.sampled_from(["colour", "year"]))
        return f"{name} is null", lambda row: row[name] is None, lambda _: True
    text, is_true, is_known = draw(filters(depth=depth - 1))
    if kind == "not":
        return f"not ({text})", lambda row: is_known(row) and not is_true(row), is_known
    text_2, is_true_2, is_known_2 = draw(filters(depth=depth - 1))
    if kind == "and":
        return (
            f"({text}) and ({text_2})",
            lambda row: is_true(row) and is_true_2(row),
            lambda row: (
                (is_known(row) and is_known_2(row))
                or (is_known(row) and not is_true(row))
                or (is_known_2(row) and not is_true_2(row))
            ),
        )
    return (
        f"({text}) or ({text_2})",
        lambda row: is_true(row) or is_true_2(row),
        lambda row: (
            (is_known(row) and is_known_2(row))
            or (is_known(row) and is_true(row))
            or (is_known_2(row) and is_true_2(row))
        ),
    )


@pytest.fixture(scope="module", params=["lance", ON_MILVUS])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    if request.param == "lance":
        address = str(tmp_path_factory.mktemp("filters") / "gallery")
    else:
        address = f"{request.getfixturevalue('milvus')}/f{uuid.uuid4().hex[:8]}"
    images = [
        GalleryImage(f"{i:032}", f"/{i}", f"{i}", 0, 0, 1, 1, "", (), row)
        for i, row in enumerate(ROWS)
    ]
    vectors = np.eye(64, dtype=np.float32)[: len(ROWS)]
    rows = to_rows(images, vectors, np.zeros((0, 64), np.float32), FIELDS)
    store = open_store(address)
    with store.write_lock():
        store.write_metadata({"dim": 64})
        store.add_fields(FIELDS)
        store.upsert(IMAGES, rows.images)
        store.upsert(CAPTIONS, pa.Table.from_batches([], rows.captions.schema))
    yield store
    store.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(filters())
def test_a_store_finds_the_rows_for_which_a_filter_is_true(
    store: Store, drawn: tuple[str, Test, Test]
) -> None:
    text, is_true, _ = drawn
    query = np.eye(64, dtype=np.float32)[63]
    found = store.search(IMAGES, query, len(ROWS), parse_filter(text, FIELDS))
    expected = {f"{i:032}" for i, row in enumerate(ROWS) if is_true(row)}
    assert {row["id"] for row, _ in found} == expected, text


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_either_a_filter_over_known_columns_or_refused(text: str) -> None:
    try:
        written = to_sql(parse_filter(text, FIELDS))
    except FilterError:
        return
    assert "field_" in written


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_a_quoted_text_is_always_read_as_a_value(value: str) -> None:
    condition = parse_filter(f"colour = {quote(value)}", FIELDS)
    assert isinstance(condition, Comparison)
    assert condition.value == value
    assert to_sql(condition) == f"field_0 = {quote(value)}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour", "a filter consists of"),
        ("size > 3", "no image has the field 'size'"),
        ("colour = 3", "has text values"),
        ("year = 'x'", "has number values"),
        ('"a key" > true', "compare it with = or !="),
        ("year = 1; drop table images", "a filter consists of"),
        ("1 = 1", "is not a field"),
        ("lower(colour) = 'red'", "is not a field"),
        ("year in (select 1)", "a filter consists of"),
        ("colour like '%'", "a filter consists of"),
        ("((((", "not a filter"),
        ("year = 1 or " * 200 + "year = 1", "longer than"),
        ("year=1 or " * 101 + "year=1", "more than 100 comparisons"),
    ],
)
def test_a_bad_filter_is_refused_with_one_line(text: str, message: str) -> None:
    with pytest.raises(FilterError) as error:
        parse_filter(text, FIELDS)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
