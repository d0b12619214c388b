import numpy as np
import pyarrow.parquet as pq

from dualpath.data.parquet import write_vectors


def test_vectors_are_written_with_their_columns(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    path = tmp_path / "new" / "vectors.parquet"
    write_vectors(path, {"file_name": ["a.jpg", "b.jpg"]}, vectors)
    table = pq.read_table(path)
    assert table.column_names == ["file_name", "vector"]
    assert table.column("file_name").to_pylist() == ["a.jpg", "b.jpg"]
    assert np.array_equal(np.array(table.column("vector").to_pylist(), np.float32), vectors)
    assert list(path.parent.iterdir()) == [path]
