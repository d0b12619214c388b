import os

import numpy as np
import pytest

from dualpath.data.vector_store import VectorStore


def hashes(*numbers):
    return [f"{number:032x}" for number in numbers]


def test_vectors_are_found_under_their_hash(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    store = VectorStore(tmp_path, 5)
    store.add(hashes(1, 2), vectors[:2])
    store.add(hashes(2, 3), vectors[[0, 2]])  # 2 is stored already, and its vector stays
    reopened = VectorStore(tmp_path, 5)
    assert len(reopened) == 3
    rows = reopened.rows(hashes(3, 1, 2))
    assert np.array_equal(reopened.vectors()[rows], vectors[[2, 0, 1]])
    assert reopened.find(hashes(4, 3)).tolist() == [-1, 2]
    assert reopened.first_missing(hashes(5, 1, 4, 5)).tolist() == [0, 2]
    with pytest.raises(KeyError):
        reopened.rows(hashes(1, 4))


@pytest.mark.parametrize("damage", ["half a vector", "no hash", "half a hash"])
def test_a_killed_addition_is_cut_off_when_the_store_is_opened(tmp_path, damage):
    vectors = np.arange(10, dtype=np.float32).reshape(2, 5)
    VectorStore(tmp_path, 5).add(hashes(1, 2), vectors)
    if damage == "half a vector":
        with (tmp_path / "vectors.f32").open("ab") as file:
            file.write(b"\1" * 7)
    else:
        os.truncate(tmp_path / "hashes.txt", 33 if damage == "no hash" else 50)
    store = VectorStore(tmp_path, 5)
    assert len(store) == (2 if damage == "half a vector" else 1)
    store.add(hashes(2, 7), vectors[[1, 0]])
    reopened = VectorStore(tmp_path, 5)
    rows = reopened.rows(hashes(1, 2, 7))
    assert np.array_equal(reopened.vectors()[rows], vectors[[0, 1, 0]])
