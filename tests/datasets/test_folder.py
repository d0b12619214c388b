import json
import tarfile

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


def read(raw, tmp_path):
    prepare("folder", raw, tmp_path / "out")
    return {i.path.stem: i for i in read_manifest(tmp_path / "out").items}


def test_a_spreadsheet_with_its_own_column_names(raw, tmp_path):
    (raw / "list.csv").write_text(
        'Image,Description,year\nphotos/a.png,"a house, old",1990\nphotos/a.png,a home,1990\n'
        "b.png,a tree,2001\n"
    )
    items = read(raw, tmp_path)
    assert items["a"].captions == ("a house, old", "a home")
    assert items["b"].metadata == {"year": 2001}
    assert set(items) == {"a", "b"}


def test_parquet_with_splits_and_instances(raw, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "path": ["a.png", "b.png", "c.png"],
        "captions": [["one", "two"], ["three"], ["four"]],
        "split": ["train", "train", "test"],
        "instance": [7, 7, 8],
    }
    pq.write_table(pa.table(columns), raw / "list.parquet")
    items = read(raw, tmp_path)
    assert [(i.split, i.instance) for i in items.values()] == [
        ("train", "7"),
        ("train", "7"),
        ("test", "8"),
    ]
    assert items["a"].captions == ("one", "two")


def test_a_text_file_a_image(raw, tmp_path):
    (raw / "photos" / "a.txt").write_text("a house\n\nan old house\n")
    (raw / "photos" / "b.txt").write_text("a tree")
    items = read(raw, tmp_path)
    assert items["a"].captions == ("a house", "an old house")
    assert set(items) == {"a", "b"}  # c has no text


def test_webdataset_shards_stay_packed(raw, tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    for number, names in enumerate((("a", "b"), ("c",))):
        write_shard(shards / f"set-{number:04d}.tar", raw, names, tmp_path, year=number)
    items = read(shards, tmp_path)
    assert {name: item.captions for name, item in items.items()} == {
        "a": ("image a",),
        "b": ("image b",),
        "c": ("image c",),
    }
    assert items["c"].metadata == {"year": 1}
    assert open_image(items["c"].path).size == open_image(raw / "photos" / "c.png").size
    assert not list(tmp_path.rglob("unpacked"))


def write_shard(path, raw, names, scratch, **told):
    with tarfile.open(path, "w") as tar:
        for name in names:
            tar.add(raw / "photos" / f"{name}.png", f"{name}.png")
            told_file = scratch / f"{name}.json"
            told_file.write_text(json.dumps({"caption": f"image {name}", **told}))
            tar.add(told_file, f"{name}.json")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "file,words\na.png,hello\n", "no column for the caption; name it 'captions'"),
        ("x.csv", "thing,text\na.png,hello\n", "no column for the image's file"),
        ("x.csv", "file,text\n,hello\n", "x.csv:2: column 'file' is empty"),
        ("x.jsonl", "{not json\n", "x.jsonl: cannot be read"),
    ],
)
def test_a_bad_table_is_named_with_the_mend(raw, tmp_path, name, content, message):
    (raw / name).write_text(content)
    with pytest.raises(DatasetError, match=message):
        prepare("folder", raw, tmp_path / "out")


def test_two_tables_or_nothing_are_refused(raw, tmp_path):
    with pytest.raises(DatasetError, match="neither a table"):
        prepare("folder", raw, tmp_path / "out")
    for name in ("x.csv", "y.csv"):
        (raw / name).write_text("file,text\n")
    with pytest.raises(DatasetError, match=r"x\.csv, y\.csv; keep one"):
        prepare("folder", raw, tmp_path / "out")
