"""Searching through the derived index: the same answers as comparing with every row."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import lance
import numpy as np
import pytest

from dualpath.gallery.derived import files
from dualpath.gallery.derived.searcher import Searcher, VectorQuery
from dualpath.gallery.filter_parser import parse_filter
from dualpath.gallery.filters import Condition
from dualpath.gallery.schema import IMAGES
from dualpath.gallery.stores.lance import LanceStore, to_sql
from dualpath.types import Vectors
from tests.gallery.derived.conftest import DIM, FIELDS, metadata_of, unit_vectors, write_images

NewStore = Callable[..., LanceStore]
FEW, MANY = 300, 8_000  # without and with cells
FILTERS = [
    "colour = 'red'",
    "colour != 'red'",
    "year >= 1950",
    "year = 1950",
    "sold = true",
    "colour != 'red' and year is null",
]


@contextmanager
def prepared(store: LanceStore) -> Iterator[Searcher]:
    searcher = Searcher(store)
    searcher.prepare(IMAGES)
    assert searcher.wait(IMAGES, 60)
    yield searcher
    searcher.close()


def names(found: list[tuple[dict[str, object], float]]) -> list[str]:
    return [str(row["name"]) for row, _ in found]


def search(searcher: Searcher, vector: Vectors, top: int = 10, where: str = "") -> list[str]:
    condition = parse_filter(where, FIELDS) if where else None
    [found] = searcher.search(IMAGES, [VectorQuery(vector, top, condition)])
    return names(found)


def right_answer(
    store: LanceStore, vector: Vectors, top: int, where: Condition | None
) -> list[tuple[str, float]]:
    """Compare the vector with every row that the store itself selects."""
    table = lance.dataset(store.folder / f"{IMAGES}.lance")
    rows = table.to_table(filter=None if where is None else to_sql(where)).to_pylist()
    scored = [(row["name"], float(np.dot(row["vector"], vector))) for row in rows]
    return sorted(scored, key=lambda pair: -pair[1])[:top]


@pytest.mark.parametrize("count", [FEW, MANY])
@pytest.mark.parametrize("where", ["", *FILTERS])
def test_answers_are_those_of_a_comparison_with_every_row(
    new_store: NewStore, count: int, where: str
) -> None:
    store, condition = new_store(count), parse_filter(where, FIELDS) if where else None
    queries, recalls = unit_vectors(25, 2), []
    with prepared(store) as searcher:
        batch = searcher.search(IMAGES, [VectorQuery(query, 10, condition) for query in queries])
        for query, found in zip(queries, batch, strict=True):
            right = right_answer(store, query, 10, condition)
            assert len(found) == len(right)
            recalls.append(len({n for n, _ in right} & set(names(found))) / len(right))
            scores = [score for _, score in found]
            assert scores == sorted(scores, reverse=True)
            if recalls[-1] == 1:
                assert scores == pytest.approx([score for _, score in right], abs=1e-5)
    assert np.mean(recalls) >= (0.98 if count == MANY else 1)


def test_rows_have_the_columns_of_the_store(new_store: NewStore) -> None:
    store, query = new_store(FEW), unit_vectors(1, 2)[0]
    with prepared(store) as searcher:
        [[(row, score)]] = searcher.search(IMAGES, [VectorQuery(query, 1, None)])
    [(expected, expected_score)] = store.search(IMAGES, query, 1, None)
    assert set(row) == set(expected)
    assert row["captions"] == [f"caption of {row['name']}", 'it\'s "ünïcode"']
    assert row["metadata"] == metadata_of(int(row["name"]))
    assert score == pytest.approx(expected_score, abs=1e-6)


@pytest.mark.parametrize("count", [FEW, MANY])
def test_a_longer_result_begins_with_the_shorter_one(new_store: NewStore, count: int) -> None:
    query = unit_vectors(1, 3)[0]
    with prepared(new_store(count)) as searcher:
        long = search(searcher, query, 200)
        assert len(set(long)) == 200
        for top in (1, 10, 50):
            assert search(searcher, query, top) == long[:top]
        assert len(search(searcher, query, count + 5)) == count


def test_queries_of_one_batch_may_differ(new_store: NewStore) -> None:
    vectors = unit_vectors(6, 4)
    red = parse_filter("colour = 'red'", FIELDS)
    queries = [
        VectorQuery(vector, top, where)
        for vector, top, where in zip(vectors, [3, 5, 3, 5, 3, 1], [None, red] * 3, strict=True)
    ]
    with prepared(new_store(FEW)) as searcher:
        together = searcher.search(IMAGES, queries)
        alone = [searcher.search(IMAGES, [query])[0] for query in queries]
    assert [names(found) for found in together] == [names(found) for found in alone]
    assert [len(found) for found in together] == [3, 5, 3, 5, 3, 1]


@pytest.mark.parametrize("count", [FEW, MANY])
def test_every_write_is_visible_at_once(new_store: NewStore, count: int) -> None:
    store, queries = new_store(count), unit_vectors(3, 5)
    with prepared(store) as searcher:
        write_images(store, [count], queries[:1], [{"colour": "red"}])
        assert search(searcher, queries[0], 1) == [str(count)]
        assert search(searcher, queries[0], 1, "colour = 'red'") == [str(count)]
        assert search(searcher, queries[0], 1, "colour != 'red'") != [str(count)]
        write_images(store, [0], queries[1:2], [{"colour": "green"}])
        assert search(searcher, queries[1], 1) == ["0"]
        assert search(searcher, queries[1], count + 1).count("0") == 1
        assert search(searcher, queries[1], 5, "colour = 'green'") == ["0"]
        store.delete(IMAGES, "id", [f"{0:032x}", f"{count:032x}"])
        everything = search(searcher, queries[0], count + 1)
        assert len(everything) == count - 1
        assert not {"0", str(count)} & set(everything)
        assert searcher.wait(IMAGES, 0)


def test_a_table_that_was_compacted_is_read_again(new_store: NewStore) -> None:
    store, query = new_store(FEW), unit_vectors(1, 6)[0]
    with prepared(store) as searcher:
        before = search(searcher, query)
        write_images(store, [FEW], -query[None], [{}])
        store.optimize()
        assert search(searcher, query) == before
        assert search(searcher, -query, 1) == [str(FEW)]
        assert searcher.wait(IMAGES, 30) or searcher.wait(IMAGES, 30)


def test_a_folder_that_was_written_again_is_not_mistaken_for_the_old_one(
    new_store: NewStore,
) -> None:
    store = new_store(FEW)
    query = unit_vectors(FEW, 1)[7]
    with prepared(store) as searcher:
        assert search(searcher, query, 1) == ["7"]
        shutil.rmtree(store.folder)
        other = new_store(0)
        vectors = np.roll(unit_vectors(FEW, 1), 1, axis=0)
        write_images(other, list(range(FEW)), vectors, [{} for _ in range(FEW)])
        store.close()
        assert search(searcher, query, 1) == ["8"]


def test_the_first_search_of_an_object_does_not_read_all_rows(new_store: NewStore) -> None:
    searcher = Searcher(new_store(FEW))
    search(searcher, unit_vectors(1, 2)[0])
    assert not any(thread.name.startswith("index of") for thread in threading.enumerate())
    search(searcher, unit_vectors(1, 2)[0])
    assert searcher.wait(IMAGES, 30)
    searcher.close()


def test_files_are_used_again_and_may_be_deleted(
    new_store: NewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, query = new_store(MANY), unit_vectors(1, 7)[0]
    with prepared(store) as searcher:
        before = search(searcher, query)
        shutil.rmtree(store.versions.folder)
        assert search(searcher, query) == before
    with prepared(store) as searcher:
        assert search(searcher, query) == before
    built = list(store.versions.folder.glob("pictures-*"))
    assert len(built) == 1
    monkeypatch.setattr(files, "write_part", None)  # a second build would fail
    with prepared(store) as searcher:
        assert search(searcher, query) == before
    assert list(store.versions.folder.glob("pictures-*")) == built


@pytest.mark.parametrize("name", ["vectors", "cells.faiss", "lines", "index.json", "row_ids"])
@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_damaged_files_are_written_again(new_store: NewStore, name: str, damage: str) -> None:
    store, query = new_store(MANY), unit_vectors(1, 8)[0]
    with prepared(store) as searcher:
        before = search(searcher, query)
    [folder] = store.versions.folder.glob("pictures-*")
    content = bytearray((folder / name).read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 0xFF
    (folder / name).write_bytes(content if damage == "flip" else content[: len(content) // 2])
    if damage == "delete":
        (folder / name).unlink()
    with prepared(store) as searcher:
        assert search(searcher, query) == before
    [new] = store.versions.folder.glob("pictures-*")
    assert new != folder


def test_without_a_place_for_files_the_store_answers(new_store: NewStore) -> None:
    store, query = new_store(MANY), unit_vectors(1, 9)[0]
    store.versions.folder.write_text("a file where the folder should be")
    searcher = Searcher(store)
    searcher.prepare(IMAGES)
    assert not searcher.wait(IMAGES, 30)
    assert search(searcher, query) == names(store.search(IMAGES, query, 10, None))


def test_vectors_without_structure_are_searched_by_the_store(new_store: NewStore) -> None:
    store = new_store(0, 128)
    vectors = np.random.default_rng(0).standard_normal((6_000, 128)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    write_images(store, list(range(6_000)), vectors, [{}] * 6_000)
    searcher, query = Searcher(store), vectors[5]
    searcher.prepare(IMAGES)
    usable = searcher.wait(IMAGES, 60)
    right = [name for name, _ in right_answer(store, query, 10, None)]
    assert search(searcher, query) == right or usable
    assert search(searcher, query, 1) == ["5"]
    searcher.close()


BUILD = """
import sys
from dualpath.gallery.derived.searcher import Searcher
from dualpath.gallery.stores.lance import LanceStore, to_sql
searcher = Searcher(LanceStore(sys.argv[1]))
print("start", flush=True)
searcher.prepare("pictures")
print(searcher.wait("pictures", 60), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.05, 0.3, 0.6, 0.9, 1.3])
def test_a_killed_build_loses_nothing(new_store: NewStore, delay: float) -> None:
    store, query = new_store(MANY), unit_vectors(1, 10)[0]
    right = [name for name, _ in right_answer(store, query, 10, None)]
    command = [sys.executable, "-c", BUILD, str(store.folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "start\n"
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with prepared(store) as searcher:
        assert search(searcher, query) == right
    leftovers = [path.name for path in store.versions.folder.glob("*.partial")]
    assert leftovers == []


def test_searches_and_writes_at_the_same_time_agree(new_store: NewStore) -> None:
    store, vectors = new_store(FEW), unit_vectors(40, 11)
    errors: list[str] = []

    def ask() -> None:
        while not stop.is_set():
            found = search(searcher, vectors[0], 5)
            if len(found) != 5 or len(set(found)) != 5:
                errors.append(str(found))

    with prepared(store) as searcher:
        stop = threading.Event()
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(8):
            write_images(store, [FEW + number], vectors[number : number + 1], [{}])
            assert search(searcher, vectors[number], 1) == [str(FEW + number)]
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []


def test_a_search_in_an_empty_table_finds_nothing(new_store: NewStore) -> None:
    with prepared(new_store(0)) as searcher:
        assert search(searcher, np.ones(DIM, np.float32)) == []


def test_a_new_process_answers_from_the_files_of_a_small_table_without_opening_the_store(
    new_store: NewStore,
) -> None:
    store = new_store(FEW)
    Searcher(store).save(IMAGES)
    code = (
        "import sys, numpy as np\n"
        "from dualpath.gallery.derived.searcher import Searcher, VectorQuery\n"
        "from dualpath.gallery.stores.lance import LanceStore\n"
        "vector = np.zeros(int(sys.argv[2]), np.float32); vector[0] = 1\n"
        "searcher = Searcher(LanceStore(sys.argv[1]))\n"
        "[found] = searcher.search('pictures', [VectorQuery(vector, 5, None)])\n"
        "print('lance' in sys.modules, *(row['name'] for row, _ in found))\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", code, str(store.folder), str(DIM)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    vector = np.zeros(DIM, np.float32)
    vector[0] = 1
    assert output == ["False", *(name for name, _ in right_answer(store, vector, 5, None))]


@pytest.mark.parametrize("change", ["write", "damage", "delete"])
def test_files_of_a_small_table_are_not_used_if_they_are_not_current(
    new_store: NewStore, change: str
) -> None:
    store = new_store(FEW)
    Searcher(store).save(IMAGES)
    [folder] = store.versions.folder.glob("pictures-*")
    if change == "write":
        write_images(store, [FEW], unit_vectors(1, 3), [{}])
    elif change == "damage":
        content = bytearray((folder / "vectors").read_bytes())
        content[40] ^= 255
        (folder / "vectors").write_bytes(content)
    else:
        shutil.rmtree(folder)
    vector = unit_vectors(1, 3)[0]
    [found] = Searcher(store).search(IMAGES, [VectorQuery(vector, 5, None)])
    right = [name for name, _ in right_answer(store, vector, 5, None)]
    assert names(found) == right
    assert (right[0] == str(FEW)) == (change == "write")
