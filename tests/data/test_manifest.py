import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dualpath.data.manifest import read_image_folder, read_manifest, write_manifest
from dualpath.errors import ManifestError
from dualpath.recipes.schema import SplitRecipe

ROW = {"file_name": "a.jpg", "captions": ["a dog", "the dog"], "split": "train"}


def write_lines(folder, *lines):
    folder.mkdir(exist_ok=True)
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    return folder


def write_parquet(folder, rows):
    pq.write_table(pa.Table.from_pylist(rows), folder / "metadata.parquet")


def write_csv(folder, rows):
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file_name", "captions", "split", "year"])
        writer.writeheader()
        writer.writerows({**row, "captions": json.dumps(row["captions"])} for row in rows)


@pytest.mark.parametrize("write", [write_manifest, write_csv, write_parquet])
def test_the_three_formats_are_read_alike(tmp_path, write):
    rows = [
        {**ROW, "year": 2020},
        {"file_name": "b.jpg", "captions": ["ein Hund"], "split": "val"},
    ]
    write(tmp_path, rows)
    images = read_manifest(tmp_path).images
    assert [image.captions for image in images] == [("a dog", "the dog"), ("ein Hund",)]
    assert [image.split for image in images] == ["train", "val"]
    assert images[0].metadata["year"] == 2020
    assert images[0].path == tmp_path / "a.jpg"


def test_consecutive_rows_of_one_image_are_joined(tmp_path):
    (tmp_path / "metadata.csv").write_text("file_name,text\nx.png,one\nx.png,two\ny.png,three\n")
    images = read_manifest(tmp_path).images
    assert [(image.file_name, image.captions) for image in images] == [
        ("x.png", ("one", "two")),
        ("y.png", ("three",)),
    ]


def test_rows_of_one_image_that_are_far_apart_are_joined(tmp_path):
    names = [f"{i % 7}.jpg" for i in range(50)]
    write_manifest(tmp_path, ({"file_name": n, "text": f"{i}"} for i, n in enumerate(names)))
    images = read_manifest(tmp_path).images
    assert [image.file_name for image in images] == [f"{i}.jpg" for i in range(7)]
    assert images[3].captions == tuple(str(i) for i in range(50) if i % 7 == 3)


def test_a_changed_manifest_is_read_again_and_cached_once(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALPATH_CACHE", str(tmp_path / "cache"))
    for text in ("a dog", "a cat"):
        write_manifest(tmp_path, [{"file_name": "a.jpg", "text": text}])
        assert read_manifest(tmp_path).images[0].captions == (text,)
        assert read_manifest(tmp_path).images[0].captions == (text,)
    assert len(list((tmp_path / "cache" / "manifests").iterdir())) == 1


def test_all_invalid_rows_are_named_with_file_and_line(tmp_path):
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


def test_ten_invalid_rows_are_shown_and_the_others_are_counted(tmp_path):
    folder = write_lines(tmp_path, *[{"file_name": f"{i}.jpg"} for i in range(25)])
    with pytest.raises(ManifestError, match=r"and 15 more") as raised:
        read_manifest(folder)
    assert len(str(raised.value).splitlines()) == 11


def test_empty_captions_are_ignored_and_counted(tmp_path):
    manifest = read_manifest(write_lines(tmp_path, {**ROW, "captions": ["", "  ", "a dog"]}))
    assert manifest.images[0].captions == ("a dog",)
    assert manifest.images.empty_captions == 2


def test_an_instance_in_two_splits_is_an_error_that_names_both_lines(tmp_path):
    folder = write_lines(
        tmp_path,
        {**ROW, "instance": "person-1"},
        {"file_name": "b.jpg", "text": "x", "instance": "person-1", "split": "test"},
    )
    with pytest.raises(ManifestError, match=r":2: instance 'person-1' is in split test .* line 1"):
        read_manifest(folder)


def test_rows_of_one_image_with_different_splits_are_an_error(tmp_path):
    folder = write_lines(tmp_path, ROW, {**ROW, "split": "val"})
    with pytest.raises(ManifestError, match=r":2: a\.jpg has another split than on line 1"):
        read_manifest(folder)


def test_missing_splits_are_drawn_by_a_seeded_hash_of_the_instance(tmp_path):
    rows = [
        {"file_name": f"{i}.jpg", "text": "x", "instance": f"person-{i % 500}"} for i in range(1000)
    ]
    split = SplitRecipe(train=0.7, val=0.1, test=0.2)
    first = read_manifest(write_lines(tmp_path / "a", *rows), split, seed=3)
    moved = read_manifest(write_lines(tmp_path / "b", *reversed(rows)), split, seed=3)
    other = read_manifest(tmp_path / "a", split, seed=4)
    by_name = {image.file_name: image.split for image in first.images}
    assert by_name == {image.file_name: image.split for image in moved.images}
    assert by_name != {image.file_name: image.split for image in other.images}
    assert first.splits["train"] == pytest.approx(700, abs=60)
    assert first.splits["test"] == pytest.approx(200, abs=60)


def test_an_image_without_a_split_gets_that_of_its_instance(tmp_path):
    folder = write_lines(
        tmp_path,
        {"file_name": "a.jpg", "text": "x", "instance": "p", "split": "test"},
        {"file_name": "b.jpg", "text": "y", "instance": "p"},
    )
    assert [image.split for image in read_manifest(folder).images] == ["test", "test"]


@pytest.mark.parametrize("name", ["validation", "valid", "dev"])
def test_other_names_of_the_validation_split_become_val(tmp_path, name):
    assert read_manifest(write_lines(tmp_path, {**ROW, "split": name})).splits == {"val": 1}


def test_a_missing_manifest_is_an_error_that_says_what_to_write(tmp_path):
    with pytest.raises(ManifestError, match=r"no manifest; write one of metadata\.jsonl"):
        read_manifest(tmp_path)


def test_two_manifests_in_a_folder_are_an_error(tmp_path):
    write_lines(tmp_path, ROW)
    (tmp_path / "metadata.csv").write_text("file_name,text\n")
    with pytest.raises(ManifestError, match="keep one"):
        read_manifest(tmp_path)


def test_a_damaged_parquet_file_is_named(tmp_path):
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ManifestError, match=r"metadata\.parquet: cannot be read"):
        read_manifest(tmp_path)


def test_without_a_manifest_a_folder_is_read_as_its_image_files_at_any_depth(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("b.PNG", "deep/er/a.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [image.file_name for image in read_image_folder(tmp_path).images] == [
        "b.PNG",
        "deep/er/a.jpg",
    ]
    with pytest.raises(ManifestError, match="missing: the folder does not exist"):
        read_image_folder(tmp_path / "missing")
