"""The towers of image-text models as encoders that can be trained."""

import json

import pytest
import torch

import dualpath
from dualpath.errors import BundleError, TextEncoderError
from dualpath.inference.pretrained import convert_pretrained
from dualpath.models import onnx
from dualpath.models.image_text.encoders import model_inputs
from dualpath.models.image_text.spec import ImageTextSpec, read_spec
from tests.models.image_text.originals import write_original


@pytest.fixture(scope="module", params=["clip", "open_clip", "siglip2"])
def bundle(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write_original(request.param, folder / "original")
    return convert_pretrained(folder / "original", folder / "bundle")


def spec(**changes):
    values = {
        "library": "transformers",
        "source": "x",
        "config": {},
        "image_parts": (),
        "text_parts": (),
        "padding_id": 7,
        "context_length": 4,
        "pad_to_context": True,
    }
    return ImageTextSpec(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "ids", "mask"),
    [
        ({}, [[1, 2, 7, 7], [3, 7, 7, 7]], [[1, 1, 0, 0], [1, 0, 0, 0]]),
        ({"pad_left": True}, [[7, 7, 1, 2], [7, 7, 7, 3]], [[0, 0, 1, 1], [0, 0, 0, 1]]),
        ({"pad_to_context": False}, [[1, 2, 7], [3, 7, 7]], [[1, 1, 0], [1, 0, 0]]),
    ],
)
def test_token_ids_get_the_padding_that_the_model_expects(changes, ids, mask):
    found = model_inputs(spec(**changes), torch.tensor([[2, 3, 0], [4, 0, 0]]))
    assert [tensor.tolist() for tensor in found] == [ids, mask]


def test_the_towers_hold_no_weights_of_each_other_and_get_gradients(bundle):
    network = dualpath.load(bundle, device="cpu", runtime="torch").network.train()
    image, text = network.image_encoder, network.text_encoder
    assert not any("text" in name for name, _ in image.named_parameters())
    assert not any("vis" in name for name, _ in text.named_parameters())
    text.requires_grad_(True)
    image.requires_grad_(True)
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    sum(one.sum() for one in network(pixels, torch.tensor([[2, 3, 4]] * 2))).backward()
    assert all(p.grad is not None for p in image.parameters())
    assert sum(p.grad is not None for p in text.parameters()) > 10
    for encoder in (image, text):
        distances = encoder.layer_distances()
        assert set(distances) == {name for name, _ in encoder.backbone.named_parameters()}
        assert set(distances.values()) == {0, 1, 2}


def test_a_bundle_is_saved_again_with_the_same_weights(bundle, tmp_path):
    model = dualpath.load(bundle)
    model.save_pretrained(tmp_path / "copy")
    copy = dualpath.load(tmp_path / "copy")
    assert copy.fingerprint == model.fingerprint
    assert copy.similarity == model.similarity
    assert (copy.embed_texts(["a dog"]) == model.embed_texts(["a dog"])).all()


def test_a_missing_architecture_is_named(tmp_path):
    with pytest.raises(TextEncoderError, match=r"image_text_model.json: missing or damaged"):
        read_spec(tmp_path)
    (tmp_path / "image_text_model.json").write_text(json.dumps({"library": "x"}))
    with pytest.raises(TextEncoderError, match="missing or damaged"):
        read_spec(tmp_path)


def test_weights_beyond_the_limit_of_onnx_are_in_a_second_file(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "_MOST_BYTES", 1000)
    write_original("clip", tmp_path / "original")
    bundle = convert_pretrained(tmp_path / "original", tmp_path / "bundle")
    files = {file.name: file.stat().st_size for file in bundle.glob("*.onnx*")}
    assert set(files) == {
        "image_encoder.fp32.onnx",
        "image_encoder.fp32.onnx.data",
        "text_encoder.fp32.onnx",
        "text_encoder.fp32.onnx.data",
    }
    assert files["text_encoder.fp32.onnx.data"] > 100_000
    moved = bundle.rename(tmp_path / "moved")
    assert dualpath.load(moved).embed_texts(["a dog"]).shape == (1, 24)


def test_a_damaged_original_is_named_in_one_line(tmp_path):
    original = write_original("clip", tmp_path / "original")
    (original / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(BundleError, match="original: transformers cannot load") as raised:
        convert_pretrained(original, tmp_path / "bundle")
    assert len(str(raised.value).splitlines()) == 1
    assert not (tmp_path / "bundle").exists()
