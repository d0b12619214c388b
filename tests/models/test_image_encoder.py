import pytest
import torch

from dualpath.models.backbones import create_backbone
from dualpath.models.image_encoder import ImageEncoder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def small_encoder():
    torch.manual_seed(0)
    backbone, dim = create_backbone("test_efficientnet")
    return ImageEncoder(backbone, dim, 32, window=1, hidden=dim, mean=MEAN, std=STD)


def random_pixels(count):
    return torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8)


def running_statistics(encoder):
    return {k: v.clone() for k, v in encoder.backbone.named_buffers() if "running" in k}


def unchanged(encoder, before):
    return [before[name].equal(value) for name, value in running_statistics(encoder).items()]


def test_pixels_are_normalised_as_the_backbone_expects():
    encoder = small_encoder().eval()
    pixels = random_pixels(2)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    expected = encoder.head(encoder.backbone((pixels / 255 - mean) / std))
    torch.testing.assert_close(encoder(pixels), expected, rtol=1e-3, atol=1e-4)


def test_features_computed_beforehand_give_the_same_embedding():
    encoder = small_encoder().eval()
    pixels = random_pixels(2)
    torch.testing.assert_close(encoder(encoder.backbone_features(pixels)), encoder(pixels))


@pytest.mark.parametrize("mode", ["frozen", "frozen_batch_norm"])
def test_a_frozen_backbone_changes_neither_weights_nor_running_statistics(mode):
    encoder = small_encoder()
    encoder.set_backbone(mode)
    before = running_statistics(encoder)
    encoder.train()(random_pixels(4)).sum().backward()
    assert all(p.grad is None for p in encoder.backbone.parameters())
    assert all(p.grad is not None for p in encoder.head.parameters())
    assert all(unchanged(encoder, before))


def test_the_two_frozen_modes_normalise_with_different_statistics():
    encoder = small_encoder()
    pixels = random_pixels(4)
    encoder.set_backbone("frozen")
    frozen = encoder.train().backbone_features(pixels)
    torch.testing.assert_close(frozen, encoder.eval().backbone_features(pixels))
    encoder.set_backbone("frozen_batch_norm")
    assert not torch.allclose(encoder.train().backbone_features(pixels), frozen)


def test_a_backbone_that_was_frozen_can_be_trained_again():
    encoder = small_encoder()
    encoder.set_backbone("frozen_batch_norm")
    encoder.set_backbone("trained")
    before = running_statistics(encoder)
    encoder.train()(random_pixels(4)).sum().backward()
    assert all(p.grad is not None for p in encoder.backbone.parameters())
    assert not all(unchanged(encoder, before))


def test_the_running_statistics_of_a_trained_backbone_may_have_a_rate_of_their_own():
    pixels = random_pixels(4)
    found = []
    for rate in (None, 0.1, 0.001):
        encoder = small_encoder()
        encoder.set_backbone("trained", running_rate=rate)
        before = running_statistics(encoder)
        encoder.train()(pixels)
        after = running_statistics(encoder)
        found.append({name: after[name] - before[name] for name in before})
    for own, tenth, thousandth in zip(*(f.values() for f in found), strict=True):
        assert own.equal(tenth)  # torch's rate, which the backbone has
        torch.testing.assert_close(thousandth, tenth / 100, rtol=1e-2, atol=1e-6)
    encoder.set_backbone("trained")  # of the next stage
    assert {m.momentum for m in encoder.backbone.modules() if hasattr(m, "momentum")} == {0.1}


def test_a_backbone_trained_with_running_statistics_starts_from_its_pretrained_features():
    encoder = small_encoder()
    pixels = random_pixels(4)
    expected = encoder.eval().backbone_features(pixels)
    encoder.set_backbone("trained_running_norm")
    before = running_statistics(encoder)
    features = encoder.train().backbone_features(pixels)
    torch.testing.assert_close(features, expected)
    features.sum().backward()
    assert all(p.grad is not None for p in encoder.backbone.parameters())
    assert all(unchanged(encoder, before))
