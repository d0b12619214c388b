"""Search and classification without training, as a user meets them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import run_cli
from tests.e2e.hub import serve_hub
from tests.models.image_text.originals import write_original
from tests.models.image_text.reference import odd_images
from tests.server.conftest import running

pytestmark = pytest.mark.slow

WITHOUT_TORCH = """
import sys
sys.modules.update(dict.fromkeys(["torch", "transformers", "open_clip"]))
import dualpath
with dualpath.Gallery.open(sys.argv[1]) as gallery:
    print(len(gallery.search("a dog", top=3)))
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_original("clip", tmp_path_factory.mktemp("tiny") / "tiny-clip")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of images, without a manifest or captions, in folders of two classes."""
    folder = tmp_path_factory.mktemp("bare") / "photos"
    for number, (name, image) in enumerate(odd_images().items()):
        path = folder / ("dog", "cat")[number % 2] / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return folder


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    path = tmp_path_factory.mktemp("labels") / "labels.txt"
    path.write_text("dog\ncat\n")
    return path


def test_a_bare_folder_is_served_and_the_model_is_converted_once(original, photos, tmp_path):
    address = tmp_path / "photos.db"
    with running(address, tmp_path / "log", "--add", photos, "--model", original) as server:
        client = server.client()
        found = client.get("/v1/search", params={"q": "a dog", "top": 4}).json()
        assert (len(found["hits"]), found["total"]) == (4, 12)
        image = {"file": (photos / "dog" / "square.png").read_bytes()}
        labels = {"labels": ["dog", "cat"], "templates": ["a photo of a {}.", "art of the {}."]}
        answer = client.post("/v1/classify", files=image, data=labels)
        assert answer.status_code == 200, answer.text
        found = answer.json()["labels"]
        assert {one["label"] for one in found} == {"dog", "cat"}
        assert sum(one["probability"] for one in found) == pytest.approx(1, abs=1e-5)
        for wrong in (
            {"labels": []},
            {"labels": ["dog", "dog"]},
            {"labels": ["x" * 201]},
            {"labels": ["dog"], "templates": ["no place"]},
            {"labels": [f"dog {n}" for n in range(800)], "templates": ["{}", "a {}", "the {}"]},
        ):
            assert client.post("/v1/classify", files=image, data=wrong).status_code == 422
        broken = {"file": b"no image"}
        assert client.post("/v1/classify", files=broken, data=labels).status_code == 415
    assert "loading" in (tmp_path / "log").read_text()
    again = run_cli("search", address, "a dog", "--model", original)
    assert (again.returncode, again.stderr) == (0, "")
    command = [sys.executable, "-c", WITHOUT_TORCH, str(address)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "3\n", done.stderr


def test_without_a_model_the_message_names_some(photos, tmp_path):
    done = run_cli("serve", tmp_path / "new.db", "--add", photos)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    for part in ("small, English, 605 MB, MIT", "google/siglip2-base-patch16-224 (multilingual"):
        assert part in done.stderr


@pytest.mark.parametrize("name", ["google/siglip2-base-patch16-224", "hf-hub:apple/MobileCLIP2-S0"])
def test_without_a_connection_one_line_says_so(name, photos, tmp_path):
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    done = run_cli("gallery", "add", tmp_path / "new.db", photos, "--model", name, env=environment)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"error: {name}: the folder does not exist, and there is no conn")


@pytest.mark.parametrize(
    ("family", "name"), [("siglip2", "tiny/siglip2"), ("open_clip", "hf-hub:tiny/open-clip")]
)
def test_a_model_of_the_hub_is_downloaded_once(family, name, photos, tmp_path):
    folder = write_original(family, tmp_path / "original")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "DUALPATH_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    address = tmp_path / "photos.db"
    with serve_hub(name.removeprefix("hf-hub:"), folder) as hub:
        environment["HF_ENDPOINT"] = hub
        done = run_cli("gallery", "add", address, photos, "--model", name, env=environment)
        assert done.returncode == 0, done.stderr
        missing = run_cli("info", "tiny/other", env=environment)
        assert missing.returncode == 1
        assert "the hub has no such bundle or pretrained model" in missing.stderr
        assert len(missing.stderr.splitlines()) == 1
    assert run_cli("search", address, "a dog", env=environment).returncode == 0
    shown = run_cli("info", name, env=environment).stdout
    assert f"{name} (" in shown
    assert "licence apache-2.0" in shown


def test_a_converted_model_is_described_evaluated_and_never_overwritten(original, shapes, tmp_path):
    bundle = tmp_path / "bundle"
    assert run_cli("pretrained", original, "--out", bundle).returncode == 0
    shown = run_cli("info", bundle).stdout
    for part in (
        "tiny-clip (transformers), licence not stated",
        "logits           scale",
        "stages",
    ):
        assert part in shown
    done = run_cli("evaluate", bundle, "--data", shapes)
    assert done.returncode == 0, done.stderr
    done = run_cli("pretrained", original, "--out", bundle)
    assert done.returncode == 1
    assert "exists already" in done.stderr
    assert "of the image-text model" in (bundle / "README.md").read_text()


def test_images_are_classified_into_a_table_and_measured(original, photos, labels, tmp_path):
    table, report = tmp_path / "labels.csv", tmp_path / "report.json"
    done = run_cli(
        *("classify", original, photos, "--labels", labels, "--template", "imagenet"),
        *("--out", table, "--truth", "folder", "--json", report, "--labelled", photos),
    )
    assert done.returncode == 0, done.stderr
    assert len(table.read_text().splitlines()) == 13
    measured = json.loads(report.read_text())
    assert measured["top_5"] == 100
    assert len(measured["templates"]) == 7
    assert "top-1" in done.stdout
    done = run_cli("classify", original, photos, "--labels", labels)
    assert len(done.stdout.splitlines()) == 12


def test_a_gallery_gets_the_labels_as_a_field(original, photos, labels, tmp_path):
    address = tmp_path / "photos.db"
    run_cli("gallery", "add", address, photos, "--model", original)
    done = run_cli("classify", original, address, "--labels", labels, "--field", "animal")
    assert done.returncode == 0, done.stderr
    found = [
        json.loads(run_cli("search", address, "x", "--where", where, "--json", "--top", 50).stdout)
        for where in ("animal = 'dog'", "animal = 'cat'")
    ]
    assert sum(len(one[0]["hits"]) for one in found) == 12


def test_a_folder_that_is_neither_is_named(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    done = run_cli("info", tmp_path)
    assert "not a bundle" in done.stderr
    done = run_cli("pretrained", tmp_path, "--out", tmp_path / "out")
    assert "nor a pretrained model" in done.stderr


def test_a_model_without_one_of_the_encoders_is_refused(tmp_path):
    folder = Path(tmp_path) / "bert"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    done = run_cli("pretrained", folder, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "a model of type 'bert' does not embed both" in done.stderr
