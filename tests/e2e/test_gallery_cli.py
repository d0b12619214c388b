"""``dualpath gallery`` and ``dualpath search`` as a user meets them, killed and interrupted too."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

import dualpath
from dualpath.datasets.synthetic.shapes import write_shapes
from tests.conftest import run_cli


@pytest.fixture(scope="module")
def photos(shapes, tmp_path_factory):
    return shutil.copytree(shapes, tmp_path_factory.mktemp("cli") / "photos")


@pytest.fixture(scope="module")
def gallery(photos, bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli-gallery") / "gallery"
    done = run_cli("gallery", "add", folder, photos, "--model", bundle)
    assert done.returncode == 0, done.stderr
    return folder


def test_search_by_sentence_by_image_with_a_filter_and_for_captions(gallery, photos):
    image = (
        photos / json.loads((photos / "metadata.jsonl").read_text().splitlines()[0])["file_name"]
    )
    by_image = json.loads(run_cli("search", gallery, "--image", image, "--json").stdout)
    assert len(by_image[0]["hits"]) == 10
    assert by_image[0]["hits"][0]["path"] == str(image)
    done = run_cli("search", gallery, "a star", "--where", "count >= 2", "--top", 5, "--json")
    hits = json.loads(done.stdout)[0]["hits"]
    assert all(hit["metadata"]["count"] >= 2 for hit in hits)
    done = run_cli("search", gallery, "--image", image, "--captions", "--top", 2)
    assert len(done.stdout.splitlines()) == 3


def test_info_verify_export_remove_and_sync(gallery, photos, tmp_path):
    shown = run_cli("gallery", "info", gallery).stdout
    for part in (
        "images           100",
        "captions         300",
        "count (number)",
        "Lance",
        "small (",
    ):
        assert part in shown
    assert "100 images, 0 problems" in run_cli("gallery", "verify", gallery).stdout
    done = run_cli("gallery", "export", gallery, tmp_path / "gallery.parquet")
    assert done.returncode == 0, done.stderr
    assert len(pq.read_table(tmp_path / "gallery.parquet")) == 100
    victims = sorted((photos / "images").iterdir())
    assert "1 images removed" in run_cli("gallery", "remove", gallery, victims[0]).stdout
    victims[1].unlink()
    done = run_cli("gallery", "verify", gallery)
    assert done.returncode == 1
    assert victims[1].name in done.stderr
    assert "1 images removed, 98 left" in run_cli("gallery", "sync", gallery).stdout
    done = run_cli("gallery", "add", gallery, photos)
    assert "1 new images, 0 changed, 98 unchanged, 1 left out; 99 in" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("search none x", "none: the gallery does not exist; create it with"),
        ("search GALLERY x --where nothing=1", "no image has the field"),
        ("search GALLERY --image no.jpg", "no.jpg: does not exist"),
        ("gallery add GALLERY none", "none: the folder does not exist"),
        ("gallery add new PHOTOS --model PHOTOS", "not a bundle"),
        ("gallery verify none", "none: the gallery does not exist"),
    ],
)
def test_a_mistake_is_one_clear_line(arguments, message, gallery, photos, tmp_path):
    paths = {"GALLERY": gallery, "PHOTOS": photos}
    words = [str(paths.get(word, word)) for word in arguments.split()]
    done = run_cli(*words, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1, done.stderr
    assert message in lines[0]


@pytest.mark.slow
def test_an_indexing_killed_at_random_moments_ends_like_an_undisturbed_one(bundle, tmp_path):
    folder, gallery = tmp_path / "shapes", tmp_path / "gallery"
    write_shapes(folder, scenes=1500, captions=2, size=40, seed=3)
    command = [
        sys.executable,
        "-m",
        "dualpath",
        "gallery",
        "add",
        gallery,
        folder,
        "--model",
        bundle,
    ]
    moments, counts = random.Random(0), []
    for kill in (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        # Its start takes seconds; once the first rows are there, any moment may come.
        while process.poll() is None and not (gallery / "pictures.lance").exists():
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 1.5) if not counts else 4 + moments.uniform(0, 2))
        process.send_signal(kill)
        process.wait(60)
        counts.append(process.returncode)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1,500 in" in done.stdout
    model = dualpath.load(bundle)
    whole = dualpath.Gallery.open(tmp_path / "whole", model=model)
    whole.add(folder)
    resumed = dualpath.Gallery.open(gallery, model=model)
    assert resumed.verify() == []
    assert len(resumed) == len(whole) == 1500
    assert resumed.store.count("captions") == whole.store.count("captions") == 3000
    for query in ("a red star", "two small circles"):
        first = [(hit.image.id, round(hit.score, 4)) for hit in resumed.search(query, top=50)]
        assert first == [(h.image.id, round(h.score, 4)) for h in whole.search(query, top=50)]
