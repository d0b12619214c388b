import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dualpath.data.images import open_image
from dualpath.data.manifest import read_manifest
from dualpath.datasets.prepare import prepare
from dualpath.errors import DatasetError


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    (folder / "photos").mkdir(parents=True)
    for name in ("a", "b", "c"):
        Image.new("RGB", (8, 8), (10, 200, 30)).save(folder / "photos" / f"{name}.png")
    return folder


def prepare_and_read(raw, tmp_path):
    """Return the images of the prepared folder by name."""
    prepare("folder", raw, tmp_path / "out")
    return {image.path.stem: image for image in read_manifest(tmp_path / "out").images}


def test_a_spreadsheet_may_have_other_column_names(raw, tmp_path):
    (raw / "list.csv").write_text(
        'Image,Description,year\nphotos/a.png,"a house, old",1990\nphotos/a.png,a home,1990\n'
        "b.png,a tree,2001\n"
    )
    images = prepare_and_read(raw, tmp_path)
    assert images["a"].captions == ("a house, old", "a home")
    assert images["b"].metadata == {"year": 2001}
    assert set(images) == {"a", "b"}


def test_splits_and_instances_of_a_parquet_file_are_read(raw, tmp_path):
    columns = {
        "path": ["a.png", "b.png", "c.png"],
        "captions": [["one", "two"], ["three"], ["four"]],
        "split": ["train", "train", "test"],
        "instance": [7, 7, 8],
    }
    pq.write_table(pa.table(columns), raw / "list.parquet")
    images = prepare_and_read(raw, tmp_path)
    assert [(image.split, image.instance) for image in images.values()] == [
        ("train", "7"),
        ("train", "7"),
        ("test", "8"),
    ]
    assert images["a"].captions == ("one", "two")


def test_an_image_may_have_its_captions_in_a_text_file(raw, tmp_path):
    (raw / "photos" / "a.txt").write_text("a house\n\nan old house\n")
    (raw / "photos" / "b.txt").write_text("a tree")
    images = prepare_and_read(raw, tmp_path)
    assert images["a"].captions == ("a house", "an old house")
    assert set(images) == {"a", "b"}  # c has no text


def test_webdataset_shards_are_not_unpacked(raw, tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    for number, names in enumerate((("a", "b"), ("c",))):
        write_shard(shards / f"set-{number:04d}.tar", raw, names, tmp_path, year=number)
    images = prepare_and_read(shards, tmp_path)
    assert {name: image.captions for name, image in images.items()} == {
        "a": ("image a",),
        "b": ("image b",),
        "c": ("image c",),
    }
    assert images["c"].metadata == {"year": 1}
    assert open_image(images["c"].path).size == open_image(raw / "photos" / "c.png").size
    assert not list(tmp_path.rglob("unpacked"))


def write_shard(path, raw, names, scratch, **values):
    with tarfile.open(path, "w") as tar:
        for name in names:
            tar.add(raw / "photos" / f"{name}.png", f"{name}.png")
            json_file = scratch / f"{name}.json"
            json_file.write_text(json.dumps({"caption": f"image {name}", **values}))
            tar.add(json_file, f"{name}.json")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "file,words\na.png,hello\n", "no column for the caption; name it 'captions'"),
        ("x.csv", "object,text\na.png,hello\n", "no column for the image's file"),
        ("x.csv", "file,text\n,hello\n", "x.csv:2: column 'file' is empty"),
        ("x.jsonl", "{not json\n", r"x.jsonl:1: cannot be read \(not valid JSON"),
    ],
)
def test_an_invalid_table_is_an_error_that_says_what_to_change(
    raw, tmp_path, name, content, message
):
    (raw / name).write_text(content)
    with pytest.raises(DatasetError, match=message):
        prepare("folder", raw, tmp_path / "out")


def test_a_folder_without_captions_is_an_error(raw, tmp_path):
    with pytest.raises(DatasetError, match="neither a table"):
        prepare("folder", raw, tmp_path / "out")


def test_two_tables_in_a_folder_are_an_error(raw, tmp_path):
    for name in ("x.csv", "y.csv"):
        (raw / name).write_text("file,text\n")
    with pytest.raises(DatasetError, match=r"x\.csv, y\.csv; keep one"):
        prepare("folder", raw, tmp_path / "out")
