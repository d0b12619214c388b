import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dualpath.data.manifest import read_image_folder, read_manifest, write_manifest
from dualpath.errors import ManifestError
from dualpath.recipes.schema import SplitRecipe


def write_lines(folder, *lines):
    folder.mkdir(exist_ok=True)
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    return folder


ROW = {"file_name": "a.jpg", "captions": ["a dog", "the dog"], "split": "train"}


def test_the_three_formats_hold_the_same(tmp_path):
    rows = [
        {**ROW, "year": 2020},
        {"file_name": "b.jpg", "captions": ["ein Hund"], "split": "val"},
    ]
    for name in ("jsonl", "csv", "parquet"):
        (tmp_path / name).mkdir()
    write_manifest(tmp_path / "jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "parquet" / "metadata.parquet")
    with (tmp_path / "csv" / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file_name", "captions", "split", "year"])
        writer.writeheader()
        writer.writerows({**row, "captions": json.dumps(row["captions"])} for row in rows)
    for name in ("jsonl", "csv", "parquet"):
        items = read_manifest(tmp_path / name).items
        assert [item.captions for item in items] == [("a dog", "the dog"), ("ein Hund",)]
        assert [item.split for item in items] == ["train", "val"]
        assert items[0].metadata["year"] == 2020
        assert items[0].path == tmp_path / name / "a.jpg"


def test_a_spreadsheet_with_a_caption_a_row_is_one_image_with_many_captions(tmp_path):
    (tmp_path / "metadata.csv").write_text("file_name,text\nx.png,one\nx.png,two\ny.png,three\n")
    items = read_manifest(tmp_path).items
    assert [(item.file_name, item.captions) for item in items] == [
        ("x.png", ("one", "two")),
        ("y.png", ("three",)),
    ]


def test_bad_rows_are_named_with_file_and_line_all_at_once(tmp_path):
    folder = write_lines(
        tmp_path,
        ROW,
        "{not json",
        {"captions": ["no image"]},
        {"file_name": "c.jpg"},
        {"file_name": "d.jpg", "captions": 7},
        {"file_name": "e.jpg", "captions": ["x"], "text": "y"},
        "[1, 2]",
        {"file_name": "h.jpg", "text": "half a \ud800 pair"},
    )
    with pytest.raises(ManifestError) as raised:
        read_manifest(folder)
    lines = str(raised.value).splitlines()
    assert [line.split("metadata.jsonl:")[1].split(":")[0] for line in lines] == list("2345678")
    assert "not valid JSON" in lines[0]
    assert "'file_name' is missing" in lines[1]
    assert "'captions' (a list of sentences) or 'text'" in lines[2]


def test_many_bad_rows_are_counted_and_ten_are_shown(tmp_path):
    folder = write_lines(tmp_path, *[{"file_name": f"{i}.jpg"} for i in range(25)])
    with pytest.raises(ManifestError, match=r"and 15 more") as raised:
        read_manifest(folder)
    assert len(str(raised.value).splitlines()) == 11


def test_empty_captions_are_dropped_and_counted(tmp_path):
    manifest = read_manifest(write_lines(tmp_path, {**ROW, "captions": ["", "  ", "a dog"]}))
    assert manifest.items[0].captions == ("a dog",)
    assert manifest.items.empty_captions == 2


def test_one_instance_in_two_splits_is_an_error_naming_both_lines(tmp_path):
    folder = write_lines(
        tmp_path,
        {**ROW, "instance": "person-1"},
        {"file_name": "b.jpg", "text": "x", "instance": "person-1", "split": "test"},
    )
    with pytest.raises(ManifestError, match=r":2: instance 'person-1' is in split test .* line 1"):
        read_manifest(folder)


def test_rows_of_one_image_must_agree(tmp_path):
    folder = write_lines(tmp_path, ROW, {**ROW, "split": "val"})
    with pytest.raises(ManifestError, match=r":2: a\.jpg has another split than on line 1"):
        read_manifest(folder)


def test_missing_splits_are_drawn_by_a_seeded_hash_of_the_instance(tmp_path):
    rows = [
        {"file_name": f"{i}.jpg", "text": "x", "instance": f"who-{i % 500}"} for i in range(1000)
    ]
    split = SplitRecipe(train=0.7, val=0.1, test=0.2)
    first = read_manifest(write_lines(tmp_path / "a", *rows), split, seed=3)
    moved = read_manifest(write_lines(tmp_path / "b", *reversed(rows)), split, seed=3)
    other = read_manifest(tmp_path / "a", split, seed=4)
    by_name = {item.file_name: item.split for item in first.items}
    assert by_name == {item.file_name: item.split for item in moved.items}
    assert by_name != {item.file_name: item.split for item in other.items}
    assert first.splits["train"] == pytest.approx(700, abs=60)
    assert first.splits["test"] == pytest.approx(200, abs=60)


def test_an_instance_without_a_split_joins_its_other_images(tmp_path):
    folder = write_lines(
        tmp_path,
        {"file_name": "a.jpg", "text": "x", "instance": "p", "split": "test"},
        {"file_name": "b.jpg", "text": "y", "instance": "p"},
    )
    assert [item.split for item in read_manifest(folder).items] == ["test", "test"]


def test_validation_is_val(tmp_path):
    assert read_manifest(write_lines(tmp_path, {**ROW, "split": "validation"})).splits == {"val": 1}


def test_a_folder_without_a_manifest_says_what_to_write(tmp_path):
    with pytest.raises(ManifestError, match=r"no manifest; write one of metadata\.jsonl"):
        read_manifest(tmp_path)
    write_lines(tmp_path, ROW)
    (tmp_path / "metadata.csv").write_text("file_name,text\n")
    with pytest.raises(ManifestError, match="keep one"):
        read_manifest(tmp_path)


def test_a_damaged_parquet_file_is_named(tmp_path):
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ManifestError, match=r"metadata\.parquet: cannot be read"):
        read_manifest(tmp_path)


def test_a_bare_folder_is_its_image_files_at_any_depth(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("b.PNG", "deep/er/a.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [item.file_name for item in read_image_folder(tmp_path).items] == [
        "b.PNG",
        "deep/er/a.jpg",
    ]
    with pytest.raises(ManifestError, match="no such folder"):
        read_image_folder(tmp_path / "missing")
