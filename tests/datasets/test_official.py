"""The official distributions, as small files in their formats."""

import json
import zipfile

import pytest
from PIL import Image

from dualpath.data.manifest import read_manifest
from dualpath.datasets.prepare import prepare
from dualpath.errors import DatasetError
from tests.conftest import run_cli

NAMES = [f"{number}_{'ab' * 5}.jpg" for number in range(1000, 1006)]
SPLITS = ["train", "train", "train", "val", "test", "test"]


def image(path, size=(60, 40), colour=(200, 30, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def karpathy(name, filepath=None, splits=SPLITS):
    images = [
        {
            "filename": image_name,
            "split": split,
            "sentences": [{"raw": f"caption {k} of {image_name} ."} for k in range(5)],
            **({"filepath": filepath} if filepath else {}),
        }
        for image_name, split in zip(NAMES, splits, strict=True)
    ]
    return json.dumps({"images": images, "dataset": name})


@pytest.fixture
def raw(tmp_path):
    for name in NAMES:
        image(tmp_path / "raw" / "images" / name)
    return tmp_path / "raw"


def by_split(out):
    manifest = read_manifest(out)
    return {split: [i.path.name for i in manifest.split(split).items] for split in manifest.splits}


@pytest.mark.parametrize("zipped", [False, True])
def test_karpathys_json_is_read_as_a_file_or_inside_its_zip(raw, tmp_path, zipped):
    content = karpathy("flickr30k")
    if zipped:
        with zipfile.ZipFile(raw / "caption_datasets.zip", "w") as archive:
            archive.writestr("__MACOSX/dataset_flickr30k.json", "nothing")
            archive.writestr("folder/dataset_flickr30k.json", content)
    else:
        (raw / "dataset_flickr30k.json").write_text(content)
    written = prepare("flickr30k", raw, tmp_path / "out")
    assert by_split(tmp_path / "out") == {"train": NAMES[:3], "val": [NAMES[3]], "test": NAMES[4:]}
    assert written.warnings == [
        "split train has 3 images, published are 29,000",
        "split val has 1 images, published are 1,014",
        "split test has 2 images, published are 1,000",
    ]
    item = read_manifest(tmp_path / "out").items[0]
    assert item.captions[1] == f"caption 1 of {NAMES[0]} ."
    assert item.path.resolve() == (raw / "images" / NAMES[0]).resolve()


def token_files(raw, name):
    lines = [f"{image}#{k}\tA man , number {k} ." for image in NAMES for k in range(5)]
    (raw / name).write_text("\n".join(lines) + "\n")
    lists = {"train": NAMES[:2], "dev": NAMES[2:3], "test": NAMES[4:5]}
    for part, names in lists.items():
        (raw / f"Flickr_8k.{part}Images.txt").write_text("\n".join(names) + "\n")


def test_the_split_of_the_papers_authors_is_flickr8ks_lists_and_the_rest(raw, tmp_path):
    token_files(raw, "results_20130124.token")
    prepare("flickr30k", raw, tmp_path / "out", split="flickr8k-lists")
    assert by_split(tmp_path / "out") == {
        "train": [NAMES[0], NAMES[1], NAMES[3], NAMES[5]],
        "val": [NAMES[2]],
        "test": [NAMES[4]],
    }


def test_flickr8ks_lists_leave_out_images_that_are_in_none(raw, tmp_path):
    token_files(raw, "Flickr8k.token.txt")
    prepare("flickr8k", raw, tmp_path / "out", split="flickr8k-lists")
    assert by_split(tmp_path / "out") == {
        "train": NAMES[:2],
        "val": [NAMES[2]],
        "test": [NAMES[4]],
    }


def test_a_bad_line_of_a_token_file_is_named(raw, tmp_path):
    token_files(raw, "results_20130124.token")
    (raw / "results_20130124.token").write_text("a.jpg#0\tfine\nno tab here\n")
    with pytest.raises(DatasetError, match=r"results_20130124\.token:2: a line is"):
        prepare("flickr30k", raw, tmp_path / "out", split="flickr8k-lists")


def test_restval_of_mscoco_is_trained_on(raw, tmp_path):
    splits = ["train", "restval", "restval", "val", "test", "test"]
    (raw / "dataset_coco.json").write_text(karpathy("coco", "images", splits))
    prepare("mscoco", raw, tmp_path / "out")
    assert by_split(tmp_path / "out")["train"] == NAMES[:3]


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_mscocos_own_files(tmp_path, year):
    raw = tmp_path / "raw"
    for part, number in (("train", 1), ("val", 2)):
        image(raw / f"{part}{year}" / f"{number:012d}.jpg")
        content = {
            "images": [{"id": number, "file_name": f"{number:012d}.jpg"}],
            "annotations": [
                {"image_id": number, "id": k, "caption": f"A {part} image.\n"} for k in range(2)
            ],
        }
        (raw / "annotations").mkdir(exist_ok=True)
        (raw / "annotations" / f"captions_{part}{year}.json").write_text(json.dumps(content))
    prepare("mscoco", raw, tmp_path / "out", split=year)
    items = read_manifest(tmp_path / "out").items
    assert [(i.split, i.captions) for i in items] == [
        ("train", ("A train image.",) * 2),
        ("val", ("A val image.",) * 2),
    ]


@pytest.mark.parametrize(
    ("name", "file", "key"),
    [
        ("cuhk_pedes", "reid_raw.json", "file_path"),
        ("icfg_pedes", "ICFG-PEDES.json", "file_path"),
        ("rstp_reid", "data_captions.json", "img_path"),
    ],
)
def test_identities_become_instances_and_folders_tell_equal_names_apart(tmp_path, name, file, key):
    raw = tmp_path / "raw"
    entries = []
    for place, identity, split in (("A", 1, "train"), ("B", 1, "train"), ("C", 2, "test")):
        image(raw / "imgs" / place / "0001.png", colour=(identity, 0, 0))
        entries.append(
            {
                "id": identity,
                "split": split,
                key: f"{place}/0001.png",
                "captions": [" A man in black. ", "He walks."],
            }
        )
    (raw / file).write_text(json.dumps(entries))
    prepare(name, raw, tmp_path / "out")
    items = read_manifest(tmp_path / "out").items
    assert [i.instance for i in items] == ["person-1", "person-1", "person-2"]
    assert [i.path.parent.name for i in items] == ["A", "B", "C"]
    assert items[0].captions == ("A man in black.", "He walks.")


def test_copies_are_resized_by_the_shorter_side_and_left_alone_when_run_again(raw, tmp_path):
    (raw / "dataset_flickr8k.json").write_text(karpathy("flickr8k"))
    done = []
    out = tmp_path / "out"
    prepare("flickr8k", raw, out, resize=20, workers=1, progress=done.append)
    copies = sorted((out / "images").iterdir())
    assert {Image.open(copy).size for copy in copies} == {(30, 20)}
    assert sum(done) == len(copies) == 6
    times = [copy.stat().st_mtime_ns for copy in copies]
    copies[0].unlink()
    prepare("flickr8k", raw, out, resize=20, workers=1)
    assert [copy.stat().st_mtime_ns for copy in copies][1:] == times[1:]
    assert copies[0].exists()


def test_people_are_squashed_to_the_square_as_in_the_paper(tmp_path):
    raw = tmp_path / "raw"
    image(raw / "p.png", size=(20, 50))
    entry = {"id": 1, "split": "train", "file_path": "p.png", "captions": ["one"]}
    (raw / "reid_raw.json").write_text(json.dumps([entry]))
    prepare("cuhk_pedes", raw, tmp_path / "out", resize=32, workers=1)
    assert Image.open(tmp_path / "out" / "images" / "p.jpg").size == (32, 32)


def test_the_command_says_what_is_missing_and_what_differs(raw, tmp_path):
    (raw / "dataset_flickr8k.json").write_text(karpathy("flickr8k"))
    (raw / "images" / NAMES[0]).unlink()
    done = run_cli("prepare", "flickr8k", "--raw", raw, "--out", tmp_path / "out")
    assert done.returncode == 0
    assert "2 train, 1 val, 2 test" in done.stdout
    assert f"1 images are missing and left out: {NAMES[0]}" in done.stderr
    assert "split train has 2 images, published are 6,000" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prepare", "flickr30k"), "dataset_flickr30k.json is neither there nor inside a zip"),
        (("prepare", "mscoco", "--split", "2020"), "mscoco has no split '2020'; choose one of"),
        (("prepare", "cuhk_pedes"), "reid_raw.json is neither there"),
    ],
)
def test_what_cannot_be_prepared_is_one_clear_line(tmp_path, arguments, message):
    (tmp_path / "raw").mkdir()
    done = run_cli(*arguments, "--raw", tmp_path / "raw", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_set_without_any_image_is_refused(tmp_path):
    (tmp_path / "dataset_flickr8k.json").write_text(karpathy("flickr8k"))
    with pytest.raises(DatasetError, match="none of the 6 images is there"):
        prepare("flickr8k", tmp_path, tmp_path / "out")
