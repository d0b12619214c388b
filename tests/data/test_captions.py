import json
from pathlib import Path

import pytest

from dualpath.data.captions import read_captions, tabulate_captions
from dualpath.data.record import ImageRecord
from dualpath.data.table import ImageTable
from dualpath.data.tokenizer import Tokenizer
from dualpath.errors import CaptionFileError


@pytest.fixture
def table(tmp_path):
    """Three images of the instances p, q and p, with two, none and one caption."""
    captions = [("a dog", "the dog"), (), ("a cat",)]
    records = [
        ImageRecord(f"{i}.jpg", Path(f"{i}.jpg"), captions[i], instance, "train", i)
        for i, instance in enumerate("pqp")
    ]
    tokenizer = Tokenizer(["a", "dog", "the", "cat"], "modern", max_words=4)
    return tabulate_captions(ImageTable.from_records(records), tokenizer, tmp_path)


def test_captions_are_encoded_and_belong_to_images_and_instances(table):
    assert table.token_ids.tolist() == [[1, 2, 0, 0], [3, 2, 0, 0], [1, 4, 0, 0]]
    assert table.owners.tolist() == [0, 0, 2]
    assert table.instance_ids.tolist() == [0, 1, 0]
    assert table.instances == 2
    assert [table.captions_of(image).tolist() for image in range(3)] == [[0, 1], [], [2]]
    assert table.captions_of_instance(2).tolist() == [0, 1, 2]


def test_tokens_are_cut_to_the_longest_caption(table):
    assert table.tokens_of(table.captions_of(0)).tolist() == [[1, 2], [3, 2]]


def test_captions_are_read_from_text_and_json_lines(tmp_path):
    (tmp_path / "captions.txt").write_text("a dog\n\n  a cat \n")
    rows = [{"captions": ["one", "two"]}, {"text": "three"}]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert read_captions(tmp_path / "captions.txt") == ["a dog", "a cat"]
    assert read_captions(tmp_path / "captions.jsonl") == ["one", "two", "three"]


@pytest.mark.parametrize("content", [None, "{not json", '{"title": "a dog"}'])
def test_an_unreadable_caption_file_is_named(tmp_path, content):
    path = tmp_path / "captions.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CaptionFileError, match=r"captions\.jsonl(:1)?: captions cannot be read"):
        read_captions(path)
