"""Files of labels, and tables of images with their labels."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dualpath.errors import ClassificationError
from dualpath.utils.files import atomic_path, atomic_write

_FORMATS = (".csv", ".parquet", ".jsonl")


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank.

    Raises:
        ClassificationError: the file cannot be read as UTF-8 text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ClassificationError(f"{path}: cannot be read as text ({error})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def write_label_table(
    path: Path, file_names: Sequence[str], scores: Sequence[Sequence[tuple[str, float]]]
) -> None:
    """Write a row for each image: its name, its label, the probability, and further labels.

    Args:
        path: ends in ``.csv``, ``.parquet`` or ``.jsonl``.
        scores: labels and probabilities of each image, most probable first.

    Raises:
        ClassificationError: the name has another ending.
    """
    kind = path.suffix.lower()
    if kind not in _FORMATS:
        raise ClassificationError(f"{path}: the name must end in {', '.join(_FORMATS)}")
    rows = [
        {
            "file_name": name,
            "label": labels[0][0],
            "probability": labels[0][1],
            "labels": [label for label, _ in labels],
            "probabilities": [probability for _, probability in labels],
        }
        for name, labels in zip(file_names, scores, strict=True)
    ]
    if kind == ".parquet":
        with atomic_path(path) as temporary:
            pq.write_table(pa.Table.from_pylist(rows), temporary)
    elif kind == ".jsonl":
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        atomic_write(path, "".join(f"{line}\n" for line in lines))
    else:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        most = max((len(labels) for labels in scores), default=1)
        header = ["file_name", "label", "probability"]
        for place in range(2, most + 1):
            header += [f"label_{place}", f"probability_{place}"]
        writer.writerow(header)
        for name, labels in zip(file_names, scores, strict=True):
            cells = [cell for label, p in labels for cell in (label, f"{p:.6f}")]
            writer.writerow([name, *cells])
        atomic_write(path, buffer.getvalue())
