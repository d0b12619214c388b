import pickle

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dualpath.data.manifest import read_manifest, write_manifest
from dualpath.data.memmap import open_mapped
from dualpath.data.table import ImageRecord, ImageTable, writing_items

WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


def item(number, folder, captions, instance, split):
    name = f"{number}\udcff.jpg" if number == 3 else f"{number}.jpg"
    told = {"number": number}
    return ImageRecord(
        name, folder / name, tuple(captions), instance, split, number, told, number % 3
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
    chosen=st.lists(st.booleans(), min_size=40, max_size=40),
)
def test_a_mapped_file_holds_what_a_list_holds(tmp_path_factory, rows, chosen):
    folder = tmp_path_factory.mktemp("items")
    listed = [item(number, folder, *row) for number, row in enumerate(rows)]
    with writing_items(folder / "items.arrow") as write:
        for one in listed:
            write(one)
    mask = np.array(chosen[: len(listed)], bool)
    for items in (ImageTable.mapped(folder / "items.arrow", folder), ImageTable.of(listed, folder)):
        assert list(items) == listed
        assert [items[i] for i in range(len(items))] == listed
        assert items.splits == counted([one.split or "none" for one in listed])
        part = pickle.loads(pickle.dumps(items.where(mask)))
        kept = [one for one, wanted in zip(listed, mask, strict=True) if wanted]
        assert list(part) == kept
        assert list(part[1:5]) == kept[1:5]
        assert list(part.paths) == [one.path for one in kept]
        assert list(part.captions) == [caption for one in kept for caption in one.captions]
        assert part.caption_counts.tolist() == [len(one.captions) for one in kept]
        assert part.empty_captions == sum(one.empty for one in kept)
        assert list(part.of_split("val")) == [one for one in kept if one.split == "val"]
        numbers: dict[str, int] = {}
        by_first_sight = [numbers.setdefault(one.instance, len(numbers)) for one in kept]
        assert part.instance_numbers.tolist() == by_first_sight


def counted(names):
    return {name: names.count(name) for name in dict.fromkeys(names)}


def test_items_go_to_a_worker_as_a_file_name(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALPATH_CACHE", str(tmp_path / "cache"))
    rows = [{"file_name": f"{i}.jpg", "text": "words " * 200} for i in range(2_000)]
    write_manifest(tmp_path, rows)
    items = read_manifest(tmp_path).items
    assert len(pickle.dumps(items)) < 40_000  # the captions are 2.4 million bytes
    assert pickle.loads(pickle.dumps(items))[1_999] == items[1_999]


def test_a_manifest_is_read_again_when_it_changes_and_kept_once(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALPATH_CACHE", str(tmp_path / "cache"))
    for text in ("a dog", "a cat"):
        write_manifest(tmp_path, [{"file_name": "a.jpg", "text": text}])
        assert read_manifest(tmp_path).items[0].captions == (text,)
        assert read_manifest(tmp_path).items[0].captions == (text,)
    assert len(list((tmp_path / "cache" / "manifests").iterdir())) == 1


def test_rows_of_one_image_that_stand_apart_are_joined(tmp_path):
    names = [f"{i % 7}.jpg" for i in range(50)]
    write_manifest(tmp_path, ({"file_name": n, "text": f"{i}"} for i, n in enumerate(names)))
    items = read_manifest(tmp_path).items
    assert [one.file_name for one in items] == [f"{i}.jpg" for i in range(7)]
    assert items[3].captions == tuple(str(i) for i in range(50) if i % 7 == 3)


def test_a_mapped_array_goes_to_a_worker_as_a_file_name(tmp_path):
    numbers = np.arange(100_000, dtype=np.float32).reshape(-1, 10)
    numbers.tofile(tmp_path / "numbers")
    mapped = open_mapped(tmp_path / "numbers", np.float32, (10_000, 10))
    assert len(pickle.dumps(mapped)) < 1_000
    for array in (mapped, mapped[5:7], mapped[[3, 1]], mapped.T):
        assert np.array_equal(pickle.loads(pickle.dumps(array)), array)
    assert open_mapped(tmp_path / "none", np.float32, (0, 10)).shape == (0, 10)
