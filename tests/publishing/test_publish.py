import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dualpath
from dualpath.errors import PublishError
from dualpath.publishing import runtime_files
from dualpath.publishing.publish import Publication, publish_gallery
from dualpath.publishing.runtime_files import FILES, find_runtime
from tests.conftest import run_cli


def publish(gallery_folder: Path, out: Path, runtime: Path, **options: object) -> Publication:
    with dualpath.Gallery.open(gallery_folder) as gallery:
        publication = publish_gallery(gallery, out, runtime=runtime, **options)
    assert publication is not None
    return publication


def test_the_folder_has_thumbnails_vectors_and_rows_of_all_images(
    gallery_folder: Path, fake_runtime: Path, tmp_path: Path
) -> None:
    out = tmp_path / "site"
    publication = publish(gallery_folder, out, fake_runtime, max_size=32)
    images = json.loads((out / "data/images.json").read_text("utf-8"))
    assert publication.images == len(images) == 100
    assert publication.captions == 300
    assert publication.fields == ["colours", "count", "kind", "shapes"]
    assert not publication.broken
    for image in images:
        assert Image.open(out / "images" / f"{image['id']}.webp").size == (32, 32)
    scales = np.fromfile(out / "data/scales.bin", "<f4")
    high, low = (
        np.fromfile(out / "data" / name, np.int8).reshape(100, -1)
        for name in ("vectors.bin", "residuals.bin")
    )
    rows = scales[:, None] * (high + low / 254)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(100), abs=1e-4)
    about = json.loads((out / "data/gallery.json").read_text("utf-8"))
    assert about["dim"] == rows.shape[1]
    assert {facet["name"] for facet in about["facets"]} == {"kind", "count"}
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert not any("original" in name or name.endswith(".png") for name in files)
    listed = sum(publication.bytes.values())
    sizes = ((out / name).stat().st_size for name in files if name != ".nojekyll")
    assert listed == sum(sizes)


def test_no_path_of_the_machine_is_published(
    gallery_folder: Path, bundle: Path, fake_runtime: Path, tmp_path: Path
) -> None:
    publish(gallery_folder, tmp_path / "site", fake_runtime)
    for path in (tmp_path / "site").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(gallery_folder.parent).encode() not in content
            assert str(bundle).encode() not in content


def test_smaller_weights_are_chosen_where_recall_stays(
    gallery_folder: Path, bundle: Path, fake_runtime: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnx", reason="the extra 'export' is not installed")
    sizes = {}
    for weights in ("auto", "int8", "fp16", "fp32"):
        out = tmp_path / weights
        graph = publish(gallery_folder, out, fake_runtime, weights=weights).graph
        assert graph.recall is not None
        assert graph.exact_recall is not None
        assert graph.agreement is not None
        assert graph.agreement > 70
        if weights == "auto":
            assert graph.exact_recall - graph.recall <= 0.5 or graph.weights == "fp32"
        else:
            assert graph.weights == weights
        sizes[weights] = (out / "data/text_encoder.onnx").stat().st_size
    assert sizes["int8"] < sizes["fp16"] < sizes["fp32"]
    exact = bundle / "text_encoder.fp32.onnx"
    assert (tmp_path / "fp32/data/text_encoder.onnx").read_bytes() == exact.read_bytes()


def test_image_files_are_copied_only_if_wanted(
    gallery_folder: Path, fake_runtime: Path, tmp_path: Path
) -> None:
    publication = publish(gallery_folder, tmp_path / "site", fake_runtime, originals=True)
    images = json.loads((tmp_path / "site/data/images.json").read_text("utf-8"))
    file = tmp_path / "site/images" / images[0]["original"]
    assert file.read_bytes() == (gallery_folder.parent / "photos" / images[0]["name"]).read_bytes()
    assert publication.bytes["image files"] > 0


def test_publishing_again_replaces_the_folder_and_refuses_other_folders(
    gallery_folder: Path, fake_runtime: Path, tmp_path: Path
) -> None:
    out = tmp_path / "site"
    publish(gallery_folder, out, fake_runtime)
    (out / "outdated").touch()
    publish(gallery_folder, out, fake_runtime)
    assert not (out / "outdated").exists()
    (out / "data/gallery.json").unlink()
    with pytest.raises(PublishError, match="holds other files, and publishing would delete them"):
        publish(gallery_folder, out, fake_runtime)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runtime", "site"]


def test_nothing_is_written_without_consent(
    gallery_folder: Path, fake_runtime: Path, tmp_path: Path
) -> None:
    with dualpath.Gallery.open(gallery_folder) as gallery:
        done = publish_gallery(
            gallery, tmp_path / "site", runtime=fake_runtime, confirm=lambda _: False
        )
    assert done is None
    assert [path.name for path in tmp_path.iterdir()] == ["runtime"]


def test_images_that_cannot_be_read_are_left_out(
    gallery_folder: Path, fake_runtime: Path, tmp_path: Path
) -> None:
    photo = next((gallery_folder.parent / "photos/images").iterdir())
    content = photo.read_bytes()
    photo.unlink()
    try:
        publication = publish(gallery_folder, tmp_path / "site", fake_runtime)
    finally:
        photo.write_bytes(content)
    assert publication.images == 99
    assert len(publication.broken) == 1
    assert photo.name in publication.broken[0]


def test_a_bundle_without_an_exported_text_encoder_is_an_error_with_the_command(
    gallery_folder: Path, bundle: Path, fake_runtime: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(bundle, tmp_path / "bundle")
    (bundle / "text_encoder.fp32.onnx").unlink()
    with pytest.raises(PublishError, match=r"has no text_encoder\.fp32\.onnx; .* dualpath export"):
        publish(gallery_folder, tmp_path / "site", fake_runtime, bundle=bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "0" * 32}, "belongs to another model than the gallery"),
        ({"file": "text_encoder.fp32.xml"}, "has no text_encoder"),
    ],
)
def test_an_encoder_that_does_not_fit_is_an_error(
    gallery_folder: Path,
    bundle: Path,
    fake_runtime: Path,
    tmp_path: Path,
    change: dict[str, str],
    message: str,
) -> None:
    bundle = shutil.copytree(bundle, tmp_path / "bundle")
    exports = json.loads((bundle / "runtimes.json").read_text())
    (bundle / "runtimes.json").write_text(json.dumps([{**entry, **change} for entry in exports]))
    with pytest.raises(PublishError, match=message):
        publish(gallery_folder, tmp_path / "site", fake_runtime, bundle=bundle)


def test_a_folder_without_the_runtime_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match=r"does not hold ort\.wasm\.min\.mjs"):
        find_runtime(tmp_path)


def test_a_download_that_is_not_the_published_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUALPATH_CACHE", str(tmp_path))
    (tmp_path / "other.tgz").write_bytes(b"other")
    monkeypatch.setattr(runtime_files, "URL", (tmp_path / "other.tgz").as_uri())
    with pytest.raises(PublishError, match="is not the published file"):
        find_runtime()
    monkeypatch.setattr(runtime_files, "URL", (tmp_path / "missing.tgz").as_uri())
    with pytest.raises(PublishError, match=r"cannot be downloaded .* --runtime FOLDER"):
        find_runtime()
    assert not list(tmp_path.rglob(FILES[0]))


@pytest.mark.slow
def test_the_command_lists_what_becomes_public_and_asks(
    gallery_folder: Path, fake_runtime: Path, tmp_path: Path
) -> None:
    arguments = ("gallery", "publish", gallery_folder, "--out", tmp_path / "site")
    arguments += ("--runtime", fake_runtime)
    refused = run_cli(*arguments, input="n\n")
    assert refused.returncode == 1
    assert "This becomes public:" in refused.stdout
    assert "no, thumbnails only" in refused.stdout
    assert "nothing was written" in refused.stderr
    assert not (tmp_path / "site").exists()
    accepted = run_cli(*arguments, "--yes")
    assert accepted.returncode == 0, accepted.stderr
    assert (tmp_path / "site/index.html").is_file()
