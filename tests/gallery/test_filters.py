"""Filters mean the same in both engines as in plain Python."""

import uuid

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dualpath.errors import FilterError
from dualpath.gallery.filters import Field, parse_filter, sql
from dualpath.gallery.schema import GalleryImage, to_rows
from dualpath.gallery.stores.base import open_store
from tests.gallery.conftest import ON_MILVUS

FIELDS = {
    "colour": Field("field_0", "text"),
    "year": Field("field_1", "number"),
    "a key": Field("field_2", "boolean"),
}
TEXTS = ["red", "it's", 'say "hi"', "x or 1=1 --", "", "grün", "\\", "100%"]
ROWS = [
    {"colour": colour, "year": year, "a key": flag}
    for colour in (*TEXTS[:5], None)
    for year in (None, -3, 2020.5)
    for flag in (None, True, False)
]


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _comparison(name, literal, operators):
    def compare(value, operator):
        def holds(row):
            there = row[name]
            if there is None:
                return False
            return {
                "=": there == value, "!=": there != value, "<": there < value,
                "<=": there <= value, ">": there > value, ">=": there >= value,
            }[operator]  # fmt: skip

        shown = f'"{name}"' if " " in name else name
        return f"{shown} {operator} {literal(value)}", holds, lambda row: row[name] is not None

    return compare, operators


@st.composite
def filters(draw, depth=3):
    """A filter, and what it means: true, and known (a missing value makes neither true)."""
    kind = draw(st.sampled_from(["text", "number", "flag", "null", "not", "and", "or"]))
    if depth == 0 or kind in ("text", "number", "flag"):
        name, values, literal, operators = {
            "number": ("year", st.sampled_from([-3, 0, 2020.5, 7]), str, "= != < <= > >="),
            "flag": ("a key", st.booleans(), lambda v: str(v).lower(), "= !="),
        }.get(kind, ("colour", st.sampled_from(TEXTS), _text, "= !="))
        compare, _ = _comparison(name, literal, operators)
        return compare(draw(values), draw(st.sampled_from(operators.split())))
    if kind == "null":
        name = draw(st.sampled_from(["colour", "year"]))
        return f"{name} is null", lambda row: row[name] is None, lambda _: True
    text, holds, known = draw(filters(depth=depth - 1))
    if kind == "not":
        return f"not ({text})", lambda row: known(row) and not holds(row), known
    text_2, holds_2, known_2 = draw(filters(depth=depth - 1))
    if kind == "and":
        return (
            f"({text}) and ({text_2})",
            lambda row: holds(row) and holds_2(row),
            lambda row: (
                (known(row) and known_2(row))
                or (known(row) and not holds(row))
                or (known_2(row) and not holds_2(row))
            ),
        )
    return (
        f"({text}) or ({text_2})",
        lambda row: holds(row) or holds_2(row),
        lambda row: (
            (known(row) and known_2(row))
            or (known(row) and holds(row))
            or (known_2(row) and holds_2(row))
        ),
    )


@pytest.fixture(scope="module", params=["embedded", ON_MILVUS])
def store(request, tmp_path_factory):
    if request.param == "embedded":
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
    with store.writing():
        store.write_metadata({"dim": 64})
        store.add_fields(FIELDS)
        store.upsert("images", rows.images)
        store.upsert("captions", pa.Table.from_batches([], rows.captions.schema))
    yield store
    store.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(filters())
def test_an_engine_finds_what_the_filter_means(store, made):
    text, holds, _ = made
    found = store.search(
        "images", np.eye(64, dtype=np.float32)[63], len(ROWS), parse_filter(text, FIELDS)
    )
    wanted = {f"{i:032}" for i, row in enumerate(ROWS) if holds(row)}
    assert {row["id"] for row, _ in found} == wanted, text


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_a_filter_of_known_columns_or_refused(text):
    try:
        written = sql(parse_filter(text, FIELDS))
    except FilterError:
        return
    assert "field_" in written


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_any_value_stays_a_value(value):
    condition = parse_filter(f"colour = {_text(value)}", FIELDS)
    assert condition.value == value
    assert sql(condition) == f"field_0 = {_text(value)}"
