"""A table is read as it was meant, or refused with file, line and reason; nothing is lost."""

import datetime
import json
import unicodedata
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import dualpath
from dualpath.data.captions import read_captions
from dualpath.data.check import check_folder
from dualpath.data.images import open_image
from dualpath.data.json_values import MAX_DEPTH, gallery_metadata, parse_json
from dualpath.data.manifest import Manifest, read_manifest
from dualpath.datasets.prepare import prepare
from dualpath.datasets.writing import copy_names
from dualpath.errors import CaptionFileError, DatasetError, FieldError, ManifestError
from dualpath.gallery.gallery import Gallery
from dualpath.server.app import create_app
from dualpath.server.settings import Settings
from dualpath.utils.text_files import read_lines
from tests.conftest import small_recipe
from tests.data.files import write_tar
from tests.robustness.files import encode, photo, run, write_images, write_rows

BIG = 1_234_567_890_123_456_789  # the id of a post, above 2**53


@pytest.fixture(scope="module")
def model(bundle: Path) -> dualpath.DualPath:
    return dualpath.load(bundle)


def manifest_of(folder: Path, content: str | bytes, name: str = "metadata.csv") -> Manifest:
    """Write a manifest and read it, first as one whose captions may be missing."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return read_manifest(folder)


def prepared(raw: Path, out: Path) -> dict[str, Any]:
    prepare("folder", raw, out)
    return {record.path.name: record for record in read_manifest(out).images}


def rows_of(manifest: Manifest) -> list[tuple[str, tuple[str, ...]]]:
    return [(record.file_name, record.captions) for record in manifest.images]


# CSV: its dialect.

TABLE = [("a.png", "a dog, running; fast"), ("b.png", 'a "big" cat'), ("c.png", "two\nlines")]


def csv_text(delimiter: str, end: str = "\n") -> str:
    quoted = ((name, '"' + text.replace('"', '""') + '"') for name, text in TABLE)
    return end.join(delimiter.join(cells) for cells in [("file_name", "text"), *quoted]) + end


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("first", ["", "sep="])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom", "utf-32"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_csv_of_any_spreadsheet_program_is_read(tmp_path, delimiter, encoding, first, end):
    text = csv_text(delimiter, end)
    text = f"{first}{delimiter}{end}{text}" if first else text
    if encoding == "utf-16-le-bom":
        content = b"\xff\xfe" + text.encode("utf-16-le")
    else:
        content = text.encode(encoding)
    expected = [(name, (caption.replace("\n", end[-1]),)) for name, caption in TABLE]
    read = rows_of(manifest_of(tmp_path, content))
    assert [(n, tuple(c.replace("\r\n", "\n") for c in texts)) for n, texts in read] == expected
    raw = write_images(tmp_path / "raw", [name for name, _ in TABLE])
    (raw / "list.csv").write_bytes(content)
    captions = {name: record.captions for name, record in prepared(raw, tmp_path / "out").items()}
    assert [captions[name][0].replace("\r\n", "\n") for name, _ in TABLE] == [c for _, c in TABLE]


def numbered(row: int, line: str) -> str:
    rows = [f"{number}.png,caption {number}" for number in range(1, 41)]
    rows[row - 1] = line
    return "file_name,text\n" + "".join(f"{row}\n" for row in rows)


REFUSED = {
    "open-quote": (numbered(5, '5.png,"not closed'), ":6: a quoted cell .* is not closed"),
    "open-quote-before-others": (
        numbered(5, '5.png,"not closed').replace("9.png,caption 9", '9.png,"whole"'),
        r":6: a quoted cell .* followed by other text",
    ),
    "open-quote-in-last-row": (numbered(40, '40.png,"'), ":41: a quoted cell .* is not closed"),
    "text-behind-quotes": (numbered(7, '7.png,"big" dog'), ":8: a quoted cell .* other text"),
    "too-many-cells": (
        numbered(3, "3.png,a dog, running"), ":4: has 3 cells, but the header has 2",
    ),
    "quote-behind-space": (numbered(3, '3.png, "a dog, running"'), ":4: has 3 cells"),
    "two-columns": ("file_name,text,text\na.png,x,y\n", ":1: has two columns 'text'"),
    "latin-1": ("file_name,text\na.png,x\nb.png,gr\xfcn\n".encode("latin-1"),
                r":3: not UTF-8 \(byte 0xfc\); save the file as UTF-8"),
    "shift-jis": ("file_name,text\na.png,犬\n".encode("shift-jis"), ":2: not UTF-8"),
    "utf-16-without-mark": (csv_text(",").encode("utf-16-le"), ":1: contains a NUL character"),
    "nul": ("file_name,text\na.png,x\0y\n", ":2: contains a NUL character"),
    "half-utf-16": ("file_name,text\na.png,x\n".encode("utf-16")[:-1], "not UTF-16"),
    "long-cell": (numbered(2, "2.png," + "x" * 200_000), ":3: cannot be read .*field larger"),
    "no-file": ("file_name,text\n,x\n", ":2: column 'file_name' is missing or empty"),
    "broken-list": (
        'file_name,captions\na.png,"[""a"", ""b"\n', ":2: 'captions' is not a JSON list",
    ),
    "empty": ("", "holds no images"),
    "header-only": ("file_name,text\n", "holds no images"),
    "binary": (bytes(range(256)) * 4, "metadata.csv"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_csv_that_would_be_read_wrongly_is_refused_with_its_line(tmp_path, name, bundle):
    content, message = REFUSED[name]
    with pytest.raises(
        ManifestError, match=rf"metadata\.csv.*{message.removeprefix('metadata.csv')}"
    ):
        manifest_of(tmp_path, content)
    for command in (
        ["data", "check", tmp_path, "--cache", tmp_path / "cache"],
        ["gallery", "add", tmp_path / "g", tmp_path, "--model", bundle],
        ["embed", bundle, tmp_path, "--out", tmp_path / "x.parquet", "--captions"],
    ):
        result = run(*command)
        assert result.exit_code == 1
        assert len(result.output.splitlines()) == 1
        assert str(tmp_path) in result.output


def test_all_rows_with_too_many_cells_are_named(tmp_path):
    with pytest.raises(ManifestError) as raised:
        manifest_of(tmp_path, "file_name,text\n" + "a.png,b,c\n" * 12)
    lines = str(raised.value).splitlines()
    assert [line.split(":")[1] for line in lines[:10]] == [str(n) for n in range(2, 12)]
    assert lines[10] == "... and 2 more"


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["7", "12", "-3.5"], [7, 12, -3.5]),
        (["007", "12", "3"], ["007", "12", "3"]),
        (["1990", "", "2001"], [1990, None, 2001]),
        (["1990", "nan", "NaN"], [1990, None, None]),
        (["2024-06-01", "2024-06-02", ""], ["2024-06-01", "2024-06-02", None]),
        (["1e5", "2", "3"], ["1e5", "2", "3"]),
        (["1,5", "2", "3"], ["1,5", "2", "3"]),
        (["true", "false", ""], ["true", "false", None]),
        ([str(BIG), "2", "3"], [str(BIG), "2", "3"]),
        ([" 7 ", "8", "9"], [7, 8, 9]),
        (["+49 30 1", "0", "1"], ["+49 30 1", "0", "1"]),
        (["", "", ""], [None, None, None]),
        (["=1+1", "#REF!", "5"], ["=1+1", "#REF!", "5"]),
        (["-0", "0", "0.10"], [0, 0, 0.1]),
    ],
)
def test_cells_keep_their_value_in_both_readers(tmp_path, cells, values):
    names = ["a.png", "b.png", "c.png"]
    lines = [f'{name};a dog;"{cell}"' for name, cell in zip(names, cells, strict=True)]
    text = "\n".join(["file_name;text;code", *lines])
    manifest = manifest_of(tmp_path, text)
    assert [record.metadata.get("code") for record in manifest.images] == values
    raw = write_images(tmp_path / "raw", names)
    (raw / "list.csv").write_text(text)
    records = prepared(raw, tmp_path / "out")
    assert [records[name].metadata.get("code") for name in names] == values


CAPTION_CELLS = {
    "": (),
    "  ": (),
    "a dog": ("a dog",),
    "123": ("123",),
    "007": ("007",),
    "2024-06-01": ("2024-06-01",),
    "[Portrait of a woman]": ("[Portrait of a woman]",),
    "[Portrait], oil on wood": ("[Portrait], oil on wood",),
    "[1, 2]": ("[1, 2]",),
    "[]": (),
    '["a dog", "the dog"]': ("a dog", "the dog"),
    '[ "a dog" , "" ]': ("a dog",),
    "['a dog', \"the dog's\"]": ("a dog", "the dog's"),
    '"quoted"': ('"quoted"',),
    "{a}": ("{a}",),
    "null": ("null",),
    "日本の犬": ("日本の犬",),
    "a\u2028b": ("a\u2028b",),
}


@pytest.mark.parametrize("cell", CAPTION_CELLS)
def test_a_cell_with_captions_is_one_sentence_or_a_list(tmp_path, cell):
    quoted = cell.replace('"', '""')
    text = f'file_name,captions\na.png,"{quoted}"\nb.png,other\n'
    manifest = manifest_of(tmp_path, text)
    assert manifest.images[0].captions == CAPTION_CELLS[cell]
    assert manifest.images[1].captions == ("other",)
    raw = write_images(tmp_path / "raw", ["a.png", "b.png"])
    (raw / "list.csv").write_text(text)
    assert prepared(raw, tmp_path / "out")["a.png"].captions == CAPTION_CELLS[cell]


@pytest.mark.parametrize("column", ["text", "captions", "caption"])
def test_an_empty_caption_cell_does_not_stop_the_manifest(tmp_path, column):
    manifest = manifest_of(tmp_path, f"file_name,{column},x\na.png,,1\nb.png,a cat,2\nc.png\n")
    assert rows_of(manifest) == [("a.png", ()), ("b.png", ("a cat",)), ("c.png", ())]


@pytest.mark.parametrize("name", ["Train", " train ", "TRAIN", "train"])
def test_the_name_of_a_split_may_have_spaces_and_capitals(tmp_path, name):
    assert manifest_of(tmp_path, f"file_name,text,split\na.png,x,{name}\n").splits == {"train": 1}


# JSON Lines.


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_lines_of_any_unicode_encoding_are_read(tmp_path, encoding):
    row = json.dumps({"file_name": "a.png", "text": "grün\u2028 🐕"}, ensure_ascii=False)
    content = f"{row}\n\n".encode(encoding)
    assert rows_of(manifest_of(tmp_path, content, "metadata.jsonl")) == [
        ("a.png", ("grün\u2028 🐕",))
    ]
    raw = write_images(tmp_path / "raw", ["a.png"])
    (raw / "list.jsonl").write_bytes(content)
    assert prepared(raw, tmp_path / "out")["a.png"].captions == ("grün\u2028 🐕",)
    (tmp_path / "c.jsonl").write_bytes(content)
    assert read_captions(tmp_path / "c.jsonl") == ["grün\u2028 🐕"]


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


ROW = '"file_name": "b.png", "text": "x"'
BAD_LINES = {
    "deep": (f'{{{ROW}, "m": {nested(100_000)}}}', "nested too deeply"),
    "deep-objects": ('{"m": ' * 5_000 + "1" + "}" * 5_001, "nested too deeply|not valid JSON"),
    "deeper-than-allowed": (f'{{{ROW}, "m": {nested(MAX_DEPTH + 1)}}}', "nested too deeply"),
    "long-integer": (f'{{{ROW}, "m": {"9" * 5_000}}}', "number with too many digits"),
    "nul-in-name": ('{"file_name": "b\\u0000.png", "text": "x"}', "NUL character"),
    "nul-in-caption": ('{"file_name": "b.png", "text": "x\\u0000"}', "NUL character"),
    "nul-in-metadata": (f'{{{ROW}, "m": "\\u0000"}}', "NUL character"),
    "surrogate-in-metadata": (f'{{{ROW}, "m": ["\\ud800"]}}', "half a surrogate pair"),
    "surrogate-in-key": (f'{{{ROW}, "\\udfff": 1}}', "half a surrogate pair"),
    "surrogate-in-caption": ('{"file_name": "b.png", "text": "\\ud83d"}', "half a surrogate pair"),
    "list": ("[1, 2]", "must be a JSON object"),
    "number": ("17", "must be a JSON object"),
    "null": ("null", "must be a JSON object"),
    "cut": (f"{{{ROW}", "not valid JSON"),
    "single-quotes": ("{'file_name': 'b.png'}", "not valid JSON"),
    "name-is-number": ('{"file_name": 7, "text": "x"}', "'file_name' is missing or empty"),
    "name-is-list": ('{"file_name": ["b.png"], "text": "x"}', "'file_name' is missing"),
    "name-is-null": ('{"file_name": null, "text": "x"}', "'file_name' is missing"),
    "captions-is-object": ('{"file_name": "b.png", "captions": {"a": 1}}', "must be a list"),
    "captions-of-lists": ('{"file_name": "b.png", "captions": [["a"]]}', "must be a list"),
    "captions-with-null": ('{"file_name": "b.png", "captions": ["a", null]}', "must be a list"),
    "text-is-number": ('{"file_name": "b.png", "text": 5}', "must be a list"),
    "text-is-true": ('{"file_name": "b.png", "text": true}', "must be a list"),
    "both": ('{"file_name": "b.png", "text": "x", "captions": ["y"]}', "has both"),
    "split-is-number": (f'{{{ROW}, "split": 1}}', "'split' must be a name"),
    "split-is-list": (f'{{{ROW}, "split": ["train"]}}', "'split' must be a name"),
    "no-captions": ('{"file_name": "b.png"}', "column 'captions' .* is missing"),
    "raw-control": ('{"file_name": "b\x01.png", "text": "x"}', "not valid JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named_and_only_that_line(tmp_path, name):
    line, message = BAD_LINES[name]
    good = '{"file_name": "a.png", "text": "a"}'
    write_rows(tmp_path, [good, line, good])
    with pytest.raises(ManifestError, match=rf"metadata\.jsonl:2: .*({message})") as raised:
        read_manifest(tmp_path)
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 1_000
    result = run("data", "check", tmp_path, "--cache", tmp_path / "cache")
    assert (result.exit_code, len(result.output.splitlines())) == (1, 1)


GOOD_LINES = {
    "null-text": ('{"file_name": "b.png", "text": null}', (), {}),
    "null-captions": ('{"file_name": "b.png", "captions": null}', (), {}),
    "empty-list": ('{"file_name": "b.png", "captions": []}', (), {}),
    "caption": ('{"file_name": "b.png", "caption": "x"}', ("x",), {}),
    "caption-beside-text": (f'{{{ROW}, "caption": "note"}}', ("x",), {"caption": "note"}),
    "nan": (f'{{{ROW}, "m": NaN}}', ("x",), {"m": None}),
    "infinity": (f'{{{ROW}, "m": [-Infinity, 1e999, 2]}}', ("x",), {"m": [None, None, 2]}),
    "nan-split": (f'{{{ROW}, "split": NaN, "instance": NaN}}', ("x",), {}),
    "big": (f'{{{ROW}, "m": {BIG}}}', ("x",), {"m": BIG}),
    "huge": (f'{{{ROW}, "m": {"9" * 4_000}}}', ("x",), {"m": int("9" * 4_000)}),
    "deep-enough": (f'{{{ROW}, "m": {nested(MAX_DEPTH - 1)}}}', ("x",), None),
    "escaped-nul": (f'{{{ROW}, "m": "\\\\u0000"}}', ("x",), {"m": "\\u0000"}),
    "emoji": ('{"file_name": "b.png", "text": "\\ud83d\\udc15"}', ("🐕",), {}),
    "unicode-key": (f'{{{ROW}, "größe": 1}}', ("x",), {"größe": 1}),
}


@pytest.mark.parametrize("name", GOOD_LINES)
def test_an_unusual_line_is_read(tmp_path, name):
    line, captions, metadata = GOOD_LINES[name]
    record = read_manifest(write_rows(tmp_path, [line])).images[0]
    assert record.captions == captions
    if metadata is not None:
        assert record.metadata == metadata


# Parquet.


def test_every_type_of_a_parquet_column_is_read(tmp_path):
    noon = datetime.datetime(2024, 6, 1, 12, 30)
    columns = {
        "file_name": ["a.png", "b.png"],
        "text": ["a", None],
        "day": [datetime.date(2024, 6, 1), None],
        "time": [noon, None],
        "price": pa.array([Decimal("1.50"), None]),
        "number": pa.array([Decimal(BIG), None]),
        "id": [BIG, 2],
        "score": [float("nan"), 0.5],
        "tags": [["x", "y"], None],
        "place": [{"city": "Köln", "at": datetime.time(3, 4)}, None],
        "raw": [b"abc", b"\xff"],
    }
    pq.write_table(pa.table(columns), tmp_path / "metadata.parquet")
    first, second = read_manifest(tmp_path).images
    assert first.metadata == {
        "day": "2024-06-01",
        "time": "2024-06-01 12:30:00",
        "price": 1.5,
        "number": BIG,
        "id": BIG,
        "score": None,
        "tags": ["x", "y"],
        "place": {"city": "Köln", "at": "03:04:00"},
        "raw": "abc",
    }
    assert second.captions == ()
    assert second.metadata["score"] == 0.5
    raw = write_images(tmp_path / "raw", ["a.png", "b.png"])
    pq.write_table(pa.table(columns), raw / "list.parquet")
    expected = {key: value for key, value in first.metadata.items() if value is not None}
    assert prepared(raw, tmp_path / "out")["a.png"].metadata == expected


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"noise" * 100])
@pytest.mark.parametrize("name", ["metadata.parquet", "list.parquet"])
def test_a_damaged_parquet_file_is_refused(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises((ManifestError, DatasetError), match=rf"{name}: cannot be read"):
        if name == "list.parquet":
            prepare("folder", tmp_path, tmp_path / "out")
        else:
            read_manifest(tmp_path)


# Text files and shards.


@pytest.mark.parametrize("content", ["a dog\r\na cat", "a dog\ra cat\r", "\n a dog \n\na cat\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_captions_in_text_files_have_no_byte_order_mark(tmp_path, content, encoding):
    raw = write_images(tmp_path / "raw", ["a.png"])
    (raw / "a.txt").write_bytes(content.encode(encoding))
    assert prepared(raw, tmp_path / "out")["a.png"].captions == ("a dog", "a cat")
    assert read_captions(raw / "a.txt") == ["a dog", "a cat"]
    shard = write_tar(
        tmp_path / "s" / "train-0.tar",
        {"a.png": encode(photo()), "a.txt": content.encode(encoding)},
    )
    assert read_manifest(shard.parent).images[0].captions == ("a dog", "a cat")
    assert [line.strip() for line in read_lines(raw / "a.txt") if line.strip()] == [
        "a dog",
        "a cat",
    ]


@pytest.mark.parametrize("command", ["embed", "prepare"])
def test_a_text_file_in_another_encoding_is_refused_with_its_line(tmp_path, bundle, command):
    raw = write_images(tmp_path / "raw", ["a.png"])
    (raw / "a.txt").write_bytes("ein Hund\ngrün\n".encode("latin-1"))
    if command == "embed":
        result = run("embed", bundle, raw / "a.txt", "--out", tmp_path / "x.parquet")
    else:
        result = run("prepare", "folder", "--raw", raw, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.output.rstrip().endswith("a.txt:2: not UTF-8 (byte 0xfc); save the file as UTF-8")


BAD_SAMPLES = {
    "list": b"[1]",
    "pairs": b'[["caption", "x"]]',
    "text": b'"x"',
    "null": b"null",
    "cut": b'{"caption": ',
    "latin-1": '{"caption": "grün"}'.encode("latin-1"),
    "deep": nested(100_000).encode(),
    "long": b'{"n": ' + b"9" * 5_000 + b"}",
    "captions-number": b'{"captions": 7}',
    "captions-object": b'{"captions": {"a": 1}}',
    "captions-mixed": b'{"captions": ["a", 7]}',
    "nul": b'{"caption": "a\\u0000"}',
}


@pytest.mark.parametrize("name", BAD_SAMPLES)
def test_a_bad_sample_of_a_shard_is_named(tmp_path, name):
    write_tar(
        tmp_path / "train-0.tar",
        {
            "a.png": encode(photo()),
            "a.txt": b"x",
            "b.png": encode(photo()),
            "b.json": BAD_SAMPLES[name],
        },
    )
    with pytest.raises(ManifestError, match=r"train-0\.tar/b\.json: ") as raised:
        read_manifest(tmp_path)
    assert len(str(raised.value).splitlines()) == 1
    with pytest.raises(DatasetError, match=r"train-0\.tar/b\.json: "):
        prepare("folder", tmp_path, tmp_path / "out")
    assert run("data", "check", tmp_path, "--cache", tmp_path / "c").exit_code == 1


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_the_json_of_a_sample_may_have_a_byte_order_mark_and_nan(tmp_path, mark):
    content = mark + b'{"caption": "x", "year": NaN}'
    write_tar(tmp_path / "train-0.tar", {"a.png": encode(photo()), "a.json": content})
    record = read_manifest(tmp_path).images[0]
    assert (record.captions, record.metadata, record.split) == (("x",), {"year": None}, "train")


@pytest.mark.parametrize("line", ["[1]", "7", '{"text": 7}', '{"captions": "a"', nested(100_000)])
def test_a_bad_line_of_a_caption_file_is_named(tmp_path, line):
    (tmp_path / "c.jsonl").write_text('{"text": "a"}\n' + line)
    with pytest.raises(CaptionFileError, match=r"c\.jsonl:2: captions cannot be read"):
        read_captions(tmp_path / "c.jsonl")


# Layouts and file names.


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "metadata.parquet"])
@pytest.mark.parametrize("folder", ["validation", "val", "Valid", "dev"])
def test_the_layout_of_hugging_face_is_read_as_splits(tmp_path, name, folder, bundle):
    for part in ("train", folder, "test"):
        write_images(tmp_path / part, ["a.png", "deep/b.png"])
        rows = [{"file_name": n, "text": f"{part} {n}"} for n in ("a.png", "deep/b.png")]
        if name.endswith("jsonl"):
            write_rows(tmp_path / part, rows)
        elif name.endswith("csv"):
            lines = ["file_name,text", *(f"{r['file_name']},{r['text']}" for r in rows)]
            (tmp_path / part / name).write_text("\n".join(lines))
        else:
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / part / name)
    manifest = read_manifest(tmp_path)
    assert manifest.splits == {"train": 2, "val": 2, "test": 2}
    assert manifest.images[0].path.is_file()
    expected = {(f"{part}/{n}", (f"{part} {n}",))
                for part in ("train", folder, "test") for n in ("a.png", "deep/b.png")}  # fmt: skip
    assert set(rows_of(manifest)) == expected
    write_images(tmp_path / "more", ["c.png"])
    result = run("gallery", "add", tmp_path / "g", tmp_path, "--model", bundle)
    assert "7 new images" in result.output
    with Gallery.open(tmp_path / "g") as gallery:
        assert gallery.store.count("captions") == 6
    checked = run("data", "check", tmp_path, "--cache", tmp_path / "cache")
    assert "6 captions" in checked.output


def test_a_row_may_name_another_split_than_its_folder(tmp_path):
    for part, split in (("train", "val"), ("test", None)):
        row = {"file_name": "a.png", "text": "x"} | ({"split": split} if split else {})
        write_rows(tmp_path / part, [row])
    assert read_manifest(tmp_path).splits == {"test": 1, "val": 1}


def test_an_error_in_the_manifest_of_a_split_names_its_file(tmp_path):
    write_rows(tmp_path / "train", [{"file_name": "a.png", "text": "x"}])
    write_rows(tmp_path / "test", [{"file_name": "a.png", "text": "x"}, "{"])
    with pytest.raises(ManifestError, match=r"test/metadata\.jsonl:2: not valid JSON"):
        read_manifest(tmp_path)


def test_manifests_of_splits_beside_shards_are_refused(tmp_path):
    write_rows(tmp_path / "train", [{"file_name": "a.png", "text": "x"}])
    write_tar(tmp_path / "test-0.tar", {"a.png": encode(photo()), "a.txt": b"x"})
    with pytest.raises(ManifestError, match=r"holds shards .* keep one kind"):
        read_manifest(tmp_path)


def test_manifests_deeper_below_are_named(tmp_path, bundle):
    write_images(tmp_path / "photos", ["dogs/a.png", "b.png"])
    write_rows(tmp_path / "photos" / "dogs", [{"file_name": "a.png", "text": "x"}])
    result = run("gallery", "add", tmp_path / "g", tmp_path / "photos", "--model", bundle)
    assert "2 new images" in result.output
    line = "manifests below the folder are not read, index their folders: dogs/metadata.jsonl"
    assert line in result.output.splitlines()


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


NAMES = {
    "backslash": ("images\\x.png", "images/x.png"),
    "backslashes": ("images\\deep\\x y.png", "images/deep/x y.png"),
    "nfc-for-nfd": (nfc("grün é.png"), nfd("grün é.png")),
    "nfd-for-nfc": (nfd("grün é.png"), nfc("grün é.png")),
    "folder-nfd": (nfc("fotos é/ü.png"),
                   nfd("fotos é") + "/" + nfc("ü.png")),
    "both": (nfc("é\\ü.png"), nfd("é/ü.png")),
    "spaces-around": (" x.png ", "x.png"),
    "korean": (nfc("한국.png"), nfd("한국.png")),
    "a-real-backslash": ("a\\b.png", "a\\b.png"),
    "dots": ("./images/../images/x.png", "images/x.png"),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMES)
def test_a_name_written_in_another_way_is_found(tmp_path, case, model):
    written, real = NAMES[case]
    folder = write_images(tmp_path / "data", [real])
    write_rows(folder, [{"file_name": written, "text": "x", "split": "train"}])
    report = check_folder(folder, tmp_path / "cache")
    assert report.errors == []
    with Gallery.open(tmp_path / "g", model=model) as gallery:
        summary = gallery.add(folder)
        assert (summary.new, summary.broken) == (1, {})
        [hit] = gallery.search("x", top=1)
        assert hit.image.path == folder / real
        assert gallery.sync() == 0
        assert gallery.verify() == []
    if case not in ("spaces-around", "dots"):
        raw = write_images(tmp_path / "raw", [real])
        write_rows(raw, [{"file_name": written, "text": "x"}], "list.jsonl")
        assert len(prepared(raw, tmp_path / "out")) == 1


@pytest.mark.parametrize("name", ["..\\secret.png", "a\\..\\..\\secret.png", "../secret.png"])
def test_a_name_that_leaves_the_folder_is_not_indexed(tmp_path, model, name):
    write_images(tmp_path, ["secret.png"])
    (tmp_path / "data" / "a").mkdir(parents=True)
    folder = write_rows(tmp_path / "data", [{"file_name": name, "text": "x"}])
    with Gallery.open(tmp_path / "g", model=model) as gallery:
        summary = gallery.add(folder)
        assert summary.new == 0
        [reason] = summary.broken.values()
        assert "allow its folder with --root" in reason or "does not exist" in reason


def test_the_copies_of_two_images_have_two_names(tmp_path):
    raw = tmp_path / "raw"
    colours = {
        "a.png": (250, 0, 0),
        "a.bmp": (0, 250, 0),
        "a.jpg": (0, 0, 250),
        "b/a.png": (9, 9, 9),
    }
    for name, colour in colours.items():
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), colour).save(raw / name)
    write_rows(raw, [{"file": name, "text": name} for name in colours], "list.jsonl")
    for side in (20, 32):  # a second size replaces the copies of the first
        prepare("folder", raw, tmp_path / "out", resize=side, workers=1)
        images = list(read_manifest(tmp_path / "out").images)
        assert len({record.file_name for record in images}) == 4
        for record in images:
            copy = open_image(record.path)
            expected = colours[record.captions[0]]
            assert copy.size == (side, side)
            assert np.abs(np.subtract(copy.getpixel((5, 5)), expected)).max() < 8


@pytest.mark.parametrize(
    "names",
    [
        ["a.png", "a.jpg", "a.jpeg", "a.JPG"],
        ["A.jpg", "a.jpg"],
        ["a.png", "a.png.jpg"],
        ["../a.jpg", "a.jpg"],
        ["/x/a.jpg", "x/a.jpg"],
        ["a\\b.png", "a/b.png"],
        ["a.b.png", "a.c.png"],
        ["x", "x.jpg"],
    ],
)
def test_names_of_copies_never_collide_and_stay_in_their_folder(names):
    copies = copy_names(names)
    assert len({copy.lower() for copy in copies}) == len(names)
    for copy in copies:
        assert copy.startswith("images/")
        assert ".." not in Path(copy).parts


# Galleries.


def gallery_of(tmp_path: Path, model: dualpath.DualPath, metadata: list[dict[str, Any]]) -> Gallery:
    names = [f"{number}.png" for number in range(len(metadata))]
    folder = write_images(tmp_path / "photos", names)
    rows = [
        {"file_name": n, "text": f"photo {n}", **m} for n, m in zip(names, metadata, strict=True)
    ]
    write_rows(folder, rows)
    gallery = Gallery.open(tmp_path / "g", model=model)
    gallery.add(folder)
    return gallery


def found(gallery: Gallery, where: str) -> list[int]:
    hits = gallery.search("photo", top=100, where=where)
    return sorted(int(hit.image.path.stem) for hit in hits)


@pytest.mark.parametrize("missing", ["NaN", "Infinity", "-Infinity", "null", "1e999"])
def test_nan_is_a_missing_value(tmp_path, model, missing):
    value = parse_json(f"[{missing}]")[0]
    with gallery_of(tmp_path, model, [{"year": 2020}, {"year": 2019}, {}]) as gallery:
        text = (tmp_path / "photos" / "metadata.jsonl").read_text().splitlines()
        text[2] = text[2][:-1] + f', "year": {missing}}}'
        write_rows(tmp_path / "photos", text)
        gallery.add(tmp_path / "photos")
        assert value is None
        assert found(gallery, "year >= 2020") == [0]
        assert found(gallery, "year < 3000") == [0, 1]
        assert found(gallery, "year != 2019") == [0]
        assert found(gallery, "year is null") == [2]
        assert found(gallery, "year is not null") == [0, 1]
    printed = run("search", tmp_path / "g", "photo", "--json").stdout
    assert "NaN" not in printed
    assert "Infinity" not in printed
    assert len(json.loads(printed)[0]["hits"]) == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float64("nan")])
def test_nan_from_a_python_program_is_missing(tmp_path, model, value):
    with gallery_of(tmp_path, model, [{"year": 2020}, {"year": 2019}]) as gallery:
        image = gallery.add_image(tmp_path / "photos" / "0.png", metadata={"year": value, "n": 1})
        assert image.metadata == {"n": 1}
        assert found(gallery, "year is null") == [0]


@pytest.mark.parametrize("number", [2**53 + 1, -(2**53) - 1, BIG, 2**63, 2**64, 10**30, -BIG])
def test_large_integers_are_exact(tmp_path, model, number):
    with gallery_of(
        tmp_path, model, [{"post": number}, {"post": number + 1}, {"post": 7}]
    ) as gallery:
        assert found(gallery, f"post = '{number}'") == [0]
        assert found(gallery, f"post = '{number + 1}'") == [1]
        assert found(gallery, "post = '7'") == [2]
        hits = {hit.image.path.stem: hit.image.metadata for hit in gallery.search("photo")}
        assert hits["0"] == {"post": str(number)}
        assert hits["2"] == {"post": 7}
        gallery.export(tmp_path / "out.parquet")
    stored = pq.read_table(tmp_path / "out.parquet")["metadata"].to_pylist()
    assert any(json.loads(text) == {"post": str(number)} for text in stored)
    printed = json.loads(run("search", tmp_path / "g", "photo", "--json").stdout)
    assert str(number) in [hit["metadata"]["post"] for hit in printed[0]["hits"]]


@pytest.mark.parametrize("number", [2**53, -(2**53), 2**53 - 1, 0])
def test_integers_that_a_number_holds_exactly_stay_numbers(tmp_path, model, number):
    with gallery_of(tmp_path, model, [{"post": number}, {"post": 5}]) as gallery:
        assert gallery.info.fields["post"].kind == "number"
        assert found(gallery, f"post = {number}") == [0]
        assert found(gallery, f"post != {number}") == [1]


def test_a_large_integer_in_a_field_of_numbers_is_refused_in_one_line(tmp_path, model):
    with gallery_of(tmp_path, model, [{"post": 1}]) as gallery:
        with pytest.raises(
            FieldError, match=r"'post' is '1234567890123456789', but it is a number"
        ):
            gallery.add_image(tmp_path / "photos" / "0.png", metadata={"post": BIG})
        assert found(gallery, "post = 1") == [0]


def test_metadata_of_any_python_type_is_stored_as_json():
    metadata = {
        "day": datetime.date(2024, 6, 1),
        "ids": [BIG, 1, np.int64(5)],
        "deep": {"n": float("nan"), "b": True},
        "number": np.float32(0.5),
        "path": Path("x"),
        3: "three",
        "none": None,
    }
    cleaned = gallery_metadata(metadata)
    assert json.loads(json.dumps(cleaned, allow_nan=False)) == cleaned
    assert cleaned["day"] == "2024-06-01"
    assert cleaned["ids"][:2] == [str(BIG), 1]
    assert cleaned["deep"] == {"n": None, "b": True}
    assert cleaned["3"] == "three"
    assert "none" not in cleaned


BAD_METADATA = [
    nested(100_000), '{"a": ' + nested(80) + "}", '{"a": ' + "9" * 5_000 + "}", "[1]", "7", "{",
    '{"a": "\\ud800"}', '{"a": "\\u0000"}', '{"\\udc00": 1}', "null", "",
]  # fmt: skip
GOOD_METADATA: dict[str, dict[str, Any]] = {
    f'{{"post": {BIG}}}': {"post": str(BIG)},
    '{"year": NaN, "b": 1}': {"b": 1},
    '{"year": 1e999}': {},
    '{"a": {"b": [Infinity, 3]}}': {"a": {"b": [None, 3]}},
    '{"c": "\\ud83d\\udc15"}': {"c": "🐕"},
}


def test_a_server_refuses_bad_metadata_and_stores_the_rest_exactly(tmp_path, model):
    content = encode(photo())
    with gallery_of(tmp_path, model, [{"x": 1}]) as gallery:
        uploads = tmp_path / "uploads"
        with TestClient(create_app(gallery, Settings(uploads=uploads))) as client:
            for text in BAD_METADATA:
                answer = client.post("/v1/items", files={"file": content}, data={"metadata": text})
                # FastAPI replaces an empty text by the default.
                assert answer.status_code == (422 if text else 201), text[:80]
                assert "\n" not in answer.json().get("detail", "")
            for text, metadata in GOOD_METADATA.items():
                answer = client.post("/v1/items", files={"file": content}, data={"metadata": text})
                assert answer.status_code == 201, text
                assert answer.json()["metadata"] == metadata
                shown = client.get(f"/v1/items/{answer.json()['id']}").json()
                assert shown["metadata"] == metadata
            assert len(list(uploads.iterdir())) == 1


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "metadata.parquet"])
def test_a_shop_with_metadata_alone_is_indexed(tmp_path, name, bundle):
    folder = write_images(tmp_path / "shop", ["a.png", "b.png"])
    prices = {"a.png": (3, "red"), "b.png": (5, "blue")}
    rows = [{"file_name": n, "price": p, "colour": c} for n, (p, c) in prices.items()]
    if name.endswith("jsonl"):
        write_rows(folder, rows)
    elif name.endswith("csv"):
        (folder / name).write_text("file_name;price;colour\na.png;3;red\nb.png;5;blue\n")
    else:
        pq.write_table(pa.Table.from_pylist(rows), folder / name)
    result = run("gallery", "add", tmp_path / "g", folder, "--model", bundle)
    assert result.exit_code == 0
    assert "2 new images" in result.output
    with Gallery.open(tmp_path / "g") as gallery:
        hits = gallery.search("x", where="price > 4")
        assert [hit.image.metadata for hit in hits] == [{"price": 5, "colour": "blue"}]
    embedded = run("embed", bundle, folder, "--out", tmp_path / "v.parquet")
    assert "2 vectors" in embedded.output
    refused = run("data", "check", folder, "--cache", tmp_path / "cache")
    assert refused.exit_code == 1
    assert "column 'captions' (a list of sentences) or 'text' (one) is missing" in refused.output


# Captions that are too long.


def test_a_check_counts_the_captions_past_the_word_limit(tmp_path):
    words = " ".join(f"w{number}" for number in range(40))
    rows = [{"file_name": "a.png", "captions": [words, words + " x", "short"], "split": "train"}]
    folder = write_rows(write_images(tmp_path, ["a.png"]), rows)
    result = run("data", "check", folder, "--cache", tmp_path / "cache")
    assert "warning: 2 captions have more than 32 words; what follows is cut off" in result.output
    assert result.exit_code == 0
    for limit, line in ((2, "2 captions have"), (40, "1 caption has")):
        options = ["--max-words", limit, "--cache", tmp_path / "cache"]
        assert f"{line} more than {limit} words" in run("data", "check", folder, *options).output
    options = ["--max-words", 41, "--cache", tmp_path / "cache"]
    assert "cut off" not in run("data", "check", folder, *options).output


@pytest.mark.parametrize("vocabulary", ["modern", "paper"])
def test_the_tokenizer_marks_what_it_cuts(vocabulary):
    from dualpath.data.tokenizer import Tokenizer

    tokenizer = Tokenizer(["a", "b"], vocabulary, max_words=3)
    texts = ["a b a", "a b a b", "", "a unknown b a", "a b a."]
    token_ids, cut = tokenizer.encode_and_mark(texts)
    assert (token_ids == tokenizer.encode(texts)).all()
    assert cut.tolist() == [False, True, False, vocabulary == "modern", False]


def test_a_training_says_how_many_captions_it_cuts(tmp_path, shapes, capsys):
    recipe = small_recipe(
        text_encoder={"width": 0.0625, "embedding_dim": 16, "max_words": 3, "min_count": 1},
        stages=[{"name": "one", "epochs": 1, "batch_size": 16, "captions_per_image": 1,
                 "backbone": "frozen", "instance": {"logit_scale": 8}, "optimizer": {"lr": 0.001}}],
    )  # fmt: skip
    from dualpath.training.train import train

    train(recipe, shapes, tmp_path / "out", cache=tmp_path / "cache", progress=True)
    printed = capsys.readouterr().err
    assert "captions have more than 3 words; what follows is cut off" in printed
