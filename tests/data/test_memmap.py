import pickle

import numpy as np

from dualpath.data.memmap import open_memmap


def test_a_mapped_array_is_pickled_as_a_path(tmp_path):
    numbers = np.arange(100_000, dtype=np.float32).reshape(-1, 10)
    numbers.tofile(tmp_path / "numbers")
    mapped = open_memmap(tmp_path / "numbers", np.float32, (10_000, 10))
    assert len(pickle.dumps(mapped)) < 1_000
    for array in (mapped, mapped[5:7], mapped[[3, 1]], mapped.T):
        assert np.array_equal(pickle.loads(pickle.dumps(array)), array)


def test_an_empty_array_needs_no_file(tmp_path):
    assert open_memmap(tmp_path / "missing", np.float32, (0, 10)).shape == (0, 10)
