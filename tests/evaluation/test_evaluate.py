import shutil
from dataclasses import asdict

import numpy as np
import pytest

import dualpath
from dualpath.data.manifest import read_manifest
from dualpath.errors import ManifestError
from dualpath.evaluation.evaluate import embed_split, evaluate
from dualpath.evaluation.protocols import EvaluationResult, evaluate_all
from dualpath.evaluation.query_bank import normalise_by_bank
from tests.conftest import run_cli


@pytest.fixture(scope="module")
def model(bundle):
    return dualpath.load(bundle)


def embed_directly(model, shapes, split):
    images = read_manifest(shapes).split(split).images
    instances = np.arange(len(images))
    vectors = model.embed_images(images.paths), model.embed_texts(list(images.captions))
    return *vectors, instances, np.repeat(instances, images.caption_counts)


def test_the_result_is_that_of_the_protocol_over_the_embeddings(model, shapes, cache):
    result = evaluate(model, shapes, split="test", cache=cache)
    expected = evaluate_all(*embed_directly(model, shapes, "test"))
    assert isinstance(result, EvaluationResult)
    assert (result.images, result.captions, result.split) == (10, 30, "test")
    assert asdict(result) == {**asdict(expected), "split": "test"}


def test_the_person_protocol_has_one_direction(model, shapes, cache):
    result = evaluate(model, shapes, split="val", protocol="person", cache=cache)
    assert (result.protocol, result.image_to_text, result.rsum) == ("person", None, None)
    assert result.identities == 10


def test_a_query_bank_re_ranks_and_is_recorded(model, shapes, cache):
    result = evaluate(model, shapes, split="test", query_bank="train", cache=cache)
    images, texts, *instances = embed_directly(model, shapes, "test")
    bank = embed_directly(model, shapes, "train")[:2]
    expected = evaluate_all(*normalise_by_bank(images, texts, *bank), *instances)
    assert result.query_bank == "train"
    assert result.text_to_image == expected.text_to_image
    plain = evaluate(model, shapes, split="test", cache=cache)
    assert plain.text_to_image != result.text_to_image
    with pytest.raises(ManifestError, match="split 'x' has no image"):
        evaluate(model, shapes, split="test", query_bank="x", cache=cache)


@pytest.mark.slow
def test_the_command_prints_which_split_re_ranked(bundle, shapes, cache):
    options = ["--data", shapes, "--cache", cache]
    ranked = run_cli("evaluate", bundle, *options, "--query-bank", "train")
    assert "re-ranked by train" in ranked.stdout
    unknown = run_cli("evaluate", bundle, *options, "--query-bank", "x")
    assert unknown.returncode == 1
    assert "split 'x' has no image" in unknown.stderr


def test_progress_counts_every_image_and_caption(model, shapes, tmp_path):
    finished = []
    evaluate(model, shapes, split="test", cache=tmp_path, progress=finished.append)
    assert sum(finished) == 40


def test_the_report_shows_images_found_for_captions(model, shapes, cache, tmp_path):
    evaluate(model, shapes, split="test", cache=cache, html=tmp_path / "report.html")
    report = (tmp_path / "report.html").read_text()
    assert report.count("<section>") == 10
    assert report.count("data:image/jpeg;base64,") == 50
    firsts = [image.captions[0] for image in read_manifest(shapes).split("test").images]
    assert all(caption in report for caption in firsts)


def test_broken_images_are_named_or_left_out(model, shapes, cache, tmp_path):
    folder = shutil.copytree(shapes, tmp_path / "shapes")
    images = read_manifest(folder).split("test").images
    images[3].path.write_bytes(b"no image")
    with pytest.raises(ManifestError, match=rf"1 image is broken.*\n.*{images[3].path.name}"):
        evaluate(model, folder, split="test", cache=cache)
    result = evaluate(model, folder, split="test", cache=cache, skip_broken=True)
    assert (result.images, result.captions) == (9, 27)
    embedded = embed_split(model, images, cache, skip_broken=True)
    assert [image.file_name for image in embedded.images] == [
        image.file_name for number, image in enumerate(images) if number != 3
    ]
    assert embedded.image_vectors.shape == (9, 32)
    assert embedded.text_vectors.shape == (27, 32)
