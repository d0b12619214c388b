"""Files of labels and tables of classified images."""

import csv
import json

import pyarrow.parquet as pq
import pytest

from dualpath.data.label_table import read_lines, write_label_table
from dualpath.errors import ClassificationError

NAMES = ["a, b.jpg", "ü.jpg"]
SCORES = [[("dog", 0.75), ("cat", 0.25)], [("cat", 0.5), ("dog", 0.5)]]


def test_blank_lines_and_a_byte_order_mark_are_no_labels(tmp_path):
    (tmp_path / "labels.txt").write_bytes("\ufeffdog\n\n  red car \n".encode())
    assert read_lines(tmp_path / "labels.txt") == ["dog", "red car"]


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ClassificationError, match=r"labels.txt: cannot be read as text"):
        read_lines(tmp_path / "labels.txt")


def test_every_format_holds_names_labels_and_probabilities(tmp_path):
    for ending in ("csv", "parquet", "jsonl"):
        write_label_table(tmp_path / f"t.{ending}", NAMES, SCORES)
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file_name"] for row in rows] == NAMES
    assert [(row["label"], row["label_2"]) for row in rows] == [("dog", "cat"), ("cat", "dog")]
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text("utf-8").splitlines()]
    assert lines == pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert lines[0]["probabilities"] == [0.75, 0.25]


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ClassificationError, match=r"t.xlsx: the name must end in"):
        write_label_table(tmp_path / "t.xlsx", NAMES, SCORES)
