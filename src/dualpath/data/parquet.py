"""Writing vectors with their columns as a Parquet file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dualpath.types import Vectors
from dualpath.utils.files import atomic_path


def write_vectors(path: Path, columns: Mapping[str, Sequence[str]], vectors: Vectors) -> None:
    """Write a Parquet file, whole or not at all.

    Args:
        columns: name to values, one for each vector.
        vectors: (rows, dim) float32; written as the column ``vector``, fixed-size lists of float.
    """
    vector = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    with atomic_path(path) as temporary:
        pq.write_table(pa.table({**columns, "vector": vector}), temporary)
