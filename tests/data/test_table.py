import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualpath.data.manifest import read_manifest, write_manifest
from dualpath.data.record import ImageRecord, record_writer
from dualpath.data.table import ImageTable, captioned, instance_numbers
from dualpath.errors import ManifestError

WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


def make_record(number, folder, captions, instance, split):
    name = f"{number}\udcff.jpg" if number == 3 else f"{number}.jpg"  # 3 is not valid Unicode
    metadata = {"number": number}
    return ImageRecord(
        name, folder / name, tuple(captions), instance, split, number, metadata, number % 3
    )


@settings(deadline=None, max_examples=30)
@given(
    rows=st.lists(
        st.tuples(
            st.lists(WORDS, max_size=4),
            st.sampled_from("pqrs"),
            st.sampled_from(["train", "val", None]),
        ),
        max_size=40,
    ),
    selected=st.lists(st.booleans(), min_size=40, max_size=40),
)
def test_a_table_equals_a_list_of_its_records(tmp_path_factory, rows, selected):
    folder = tmp_path_factory.mktemp("images")
    records = [make_record(number, folder, *row) for number, row in enumerate(rows)]
    with record_writer(folder / "images.arrow") as write:
        for record in records:
            write(record)
    mask = np.array(selected[: len(records)], bool)
    from_file = ImageTable.from_file(folder / "images.arrow", folder)
    for table in (from_file, ImageTable.from_records(records, folder)):
        assert list(table) == records
        assert [table[i] for i in range(len(table))] == records
        assert table.splits == count_names([record.split or "none" for record in records])
        order = np.argsort([-record.row for record in records])
        assert list(table.take(order)) == records[::-1]
        part = pickle.loads(pickle.dumps(table.filter(mask)))
        assert_equal_to_list(part, [r for r, use in zip(records, mask, strict=True) if use])


def assert_equal_to_list(table, records):
    assert list(table) == records
    assert list(table[1:5]) == records[1:5]
    assert list(table.paths) == [record.path for record in records]
    assert list(table.captions) == [caption for r in records for caption in r.captions]
    assert table.caption_counts.tolist() == [len(record.captions) for record in records]
    assert table.empty_captions == sum(record.empty_captions for record in records)
    assert list(table.select_split("val")) == [r for r in records if r.split == "val"]
    numbers: dict[str, int] = {}
    by_first_appearance = [numbers.setdefault(r.instance, len(numbers)) for r in records]
    assert table.instance_ids.tolist() == by_first_appearance


def count_names(names):
    return {name: names.count(name) for name in dict.fromkeys(names)}


@pytest.fixture
def images():
    """Three images of the instances p, q and p, with two, none and one caption."""
    captions = [("one", "two"), (), ("three",)]
    return ImageTable.from_records(
        make_record(number, Path(), captions[number], instance, "val")
        for number, instance in enumerate("pqp")
    )


def test_captioned_leaves_out_images_without_a_caption(images):
    assert [image.row for image in captioned(images, "val")] == [0, 2]
    with pytest.raises(ManifestError, match="split 'val' has no image with a caption"):
        captioned(images.filter(images.caption_counts == 0), "val")


def test_instance_numbers_of_captions_are_those_of_their_images(images):
    of_images, of_captions = instance_numbers(images)
    assert of_images.tolist() == [0, 1, 0]
    assert of_captions.tolist() == [0, 0, 0]


def test_a_table_of_a_manifest_is_pickled_as_a_path(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALPATH_CACHE", str(tmp_path / "cache"))
    rows = [{"file_name": f"{i}.jpg", "text": "words " * 200} for i in range(2_000)]
    write_manifest(tmp_path, rows)
    images = read_manifest(tmp_path).images
    assert len(pickle.dumps(images)) < 40_000  # the captions are 2.4 million bytes
    assert pickle.loads(pickle.dumps(images))[1_999] == images[1_999]
