"""Filters over arrays select the rows that the store selects."""

from collections.abc import Callable
from typing import Any

import lance
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dualpath.gallery.derived.masks import evaluate
from dualpath.gallery.derived.part import join, to_parts
from dualpath.gallery.filters import Comparison, Condition, Group, NullTest
from dualpath.gallery.schema import IMAGES
from dualpath.gallery.stores.lance import LanceStore, to_sql
from tests.gallery.derived.conftest import DIM, unit_vectors, write_images

COLOURS = ["red", "green", "it's", "é", ""]
YEARS = [0.0, -1.5, 1e300, 1900.0, 2000.0]

comparisons = st.one_of(
    st.builds(
        Comparison,
        st.just("field_0"),
        st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
        st.sampled_from(COLOURS),
    ),
    st.builds(
        Comparison,
        st.just("field_1"),
        st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
        st.sampled_from(YEARS),
    ),
    st.builds(Comparison, st.just("field_2"), st.sampled_from(["=", "!="]), st.booleans()),
    st.builds(NullTest, st.sampled_from(["field_0", "field_1", "field_2"]), st.booleans()),
)
conditions = st.recursive(
    comparisons,
    lambda parts: st.builds(
        Group, st.sampled_from(["and", "or"]), st.lists(parts, min_size=2, max_size=3).map(tuple)
    ),
    max_leaves=6,
)


@pytest.fixture
def store(new_store: Callable[..., LanceStore]) -> LanceStore:
    generator, store = np.random.default_rng(0), new_store(0)
    metadata: list[dict[str, Any]] = []
    for _ in range(200):
        values = {
            "colour": COLOURS[generator.integers(5)],
            "year": YEARS[generator.integers(5)],
            "sold": bool(generator.integers(2)),
        }
        metadata.append({key: v for key, v in values.items() if generator.random() < 0.7})
    write_images(store, list(range(200)), unit_vectors(200, 1), metadata)
    return store


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(condition=conditions)
def test_a_filter_selects_the_rows_that_the_store_selects(
    store: LanceStore, condition: Condition
) -> None:
    pinned = store.versions.pin(IMAGES)
    assert pinned is not None
    part = join(list(to_parts(IMAGES, pinned.read(), DIM)), DIM)
    mask = evaluate(condition, part.fields, len(part))
    table = lance.dataset(store.folder / f"{IMAGES}.lance")
    rows = table.to_table(filter=to_sql(condition)).to_pylist()
    assert {part.row(number)["id"] for number in np.flatnonzero(mask)} == {r["id"] for r in rows}


@pytest.mark.parametrize("is_null", [True, False])
def test_a_column_that_is_missing_has_no_values(is_null: bool) -> None:
    assert evaluate(NullTest("field_9", is_null), {}, 3).tolist() == [is_null] * 3
    assert not evaluate(Comparison("field_9", "!=", "x"), {}, 3).any()
