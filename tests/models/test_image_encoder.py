import pytest
import timm
import torch
from safetensors.torch import save_file

from dualpath.errors import BackboneError
from dualpath.models.image_encoder import ImageEncoder, backbone_preprocessing, create_backbone


def small_encoder(name="test_efficientnet"):
    torch.manual_seed(0)
    backbone, dim = create_backbone(name)
    _, mean, std = backbone_preprocessing(name)
    return ImageEncoder(backbone, dim, 32, window=1, hidden=dim, mean=mean, std=std)


@pytest.mark.parametrize(
    ("name", "dim"),
    [("resnet50", 2048), ("vgg11", 4096), ("tf_efficientnet_lite0", 1280), ("test_resnet", 96)],
)
def test_any_timm_backbone_ends_in_pooled_features(name, dim):
    _, backbone_dim = create_backbone(name)
    assert backbone_dim == dim


def test_a_grid_keeps_the_cells_apart_and_their_mean_is_the_pooled_feature(tmp_path):
    torch.manual_seed(1)
    whole, dim = create_backbone("test_resnet")
    save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    cells, cells_dim = create_backbone(
        "test_resnet", weights=tmp_path / "weights.safetensors", grid=2
    )
    assert cells_dim == 4 * dim
    pixels = torch.randn(2, 3, 128, 128)
    grid = cells.eval()(pixels).view(2, dim, 4)
    torch.testing.assert_close(grid.mean(dim=2), whole.eval()(pixels))


def test_earlier_maps_stand_as_means_beside_the_cells(tmp_path):
    torch.manual_seed(1)
    whole, dim = create_backbone("test_resnet")
    weights = tmp_path / "weights.safetensors"
    save_file(whole.state_dict(), weights)
    # The last of a ResNet's intermediates is the map that it pools.
    backbone, width = create_backbone(
        "test_resnet", weights=weights, grid=2, feature_layers=[-2, -1]
    )
    cells, _ = create_backbone("test_resnet", weights=weights, grid=2)
    pixels = torch.randn(2, 3, 128, 128)
    features = backbone.eval()(pixels)
    assert features.shape == (2, width) == (2, 4 * dim + 192 + dim)
    torch.testing.assert_close(features[:, : 4 * dim], cells.eval()(pixels))
    torch.testing.assert_close(features[:, -dim:], whole.eval()(pixels))


@pytest.mark.parametrize("name", ["test_vit", "vgg11", "tf_efficientnet_lite0"])
def test_any_timm_backbone_shows_earlier_states(name):
    torch.manual_seed(1)
    backbone, width = create_backbone(name, feature_layers=[-2])
    size, *_ = backbone_preprocessing(name)
    pixels = torch.randn(1, 3, size, size)
    with torch.no_grad():
        features, pooled = backbone.eval()(pixels), backbone[0](pixels)
    assert features.shape[1] == width > pooled.shape[1]
    torch.testing.assert_close(features[:, : pooled.shape[1]], pooled)


def test_states_that_a_backbone_has_not_are_named():
    with pytest.raises(BackboneError, match=r"states: \[9\] are no states of test_resnet"):
        create_backbone("test_resnet", feature_layers=[9])


def test_the_backbone_brings_its_own_preprocessing():
    assert backbone_preprocessing("tf_efficientnet_lite0") == (224, (0.5,) * 3, (0.5,) * 3)
    assert backbone_preprocessing("resnet50")[1] == pytest.approx((0.485, 0.456, 0.406))


def test_weights_are_read_from_a_local_file(tmp_path):
    torch.manual_seed(1)
    original = timm.create_model("test_efficientnet", pretrained=False).eval()
    save_file(original.state_dict(), tmp_path / "weights.safetensors")
    backbone, _ = create_backbone("test_efficientnet", weights=tmp_path / "weights.safetensors")
    pixels = torch.randn(2, 3, 160, 160)
    expected = original.forward_head(original.forward_features(pixels), pre_logits=True)
    torch.testing.assert_close(backbone.eval()(pixels), expected)


def test_weights_of_another_network_are_refused(tmp_path):
    save_file({"nothing.of": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(BackboneError, match=r"other\.safetensors: .* do not fit test_efficientnet"):
        create_backbone("test_efficientnet", weights=tmp_path / "other.safetensors")


def test_an_unknown_backbone_is_named_with_its_neighbours():
    with pytest.raises(BackboneError, match=r"'resnet5' is no timm model; near it: .*resnet"):
        backbone_preprocessing("resnet5")


def test_pixels_are_normalised_as_the_backbone_expects():
    encoder = small_encoder().eval()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    _, mean, std = backbone_preprocessing("test_efficientnet")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    expected = encoder.head(encoder.backbone((pixels / 255 - mean) / std))
    torch.testing.assert_close(encoder(pixels), expected, rtol=1e-3, atol=1e-4)


def test_features_computed_beforehand_give_the_same_embedding():
    encoder = small_encoder().eval()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(encoder(encoder.backbone_features(pixels)), encoder(pixels))


def buffers(encoder):
    return {k: v.clone() for k, v in encoder.backbone.named_buffers() if "running" in k}


@pytest.mark.parametrize("mode", ["frozen", "frozen_batch_norm"])
def test_a_frozen_backbone_changes_neither_weights_nor_running_statistics(mode):
    encoder = small_encoder()
    encoder.set_backbone(mode)
    before = buffers(encoder)
    encoder.train()(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)).sum().backward()
    assert all(p.grad is None for p in encoder.backbone.parameters())
    assert all(p.grad is not None for p in encoder.head.parameters())
    assert all(torch.equal(before[name], value) for name, value in buffers(encoder).items())


def test_the_two_frozen_modes_differ_in_the_statistics_they_normalise_with():
    encoder = small_encoder()
    pixels = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    encoder.set_backbone("frozen")
    frozen = encoder.train().backbone_features(pixels)
    torch.testing.assert_close(frozen, encoder.eval().backbone_features(pixels))
    encoder.set_backbone("frozen_batch_norm")
    assert not torch.allclose(encoder.train().backbone_features(pixels), frozen)


def test_a_backbone_that_was_frozen_trains_again_when_it_is_told_to():
    encoder = small_encoder()
    encoder.set_backbone("frozen_batch_norm")
    encoder.set_backbone("trained")
    before = buffers(encoder)
    encoder.train()(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)).sum().backward()
    assert all(p.grad is not None for p in encoder.backbone.parameters())
    assert any(not torch.equal(before[name], value) for name, value in buffers(encoder).items())


def test_a_backbone_trained_with_running_statistics_starts_from_the_features_it_had():
    encoder = small_encoder()
    pixels = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    expected = encoder.eval().backbone_features(pixels)
    encoder.set_backbone("trained_running_norm")
    before = buffers(encoder)
    features = encoder.train().backbone_features(pixels)
    torch.testing.assert_close(features, expected)
    features.sum().backward()
    assert all(p.grad is not None for p in encoder.backbone.parameters())
    assert all(torch.equal(before[name], value) for name, value in buffers(encoder).items())


def test_a_vision_transformer_is_an_image_path_too_but_has_no_grid():
    backbone, width = create_backbone("test_vit")
    assert backbone(torch.zeros(2, 3, 160, 160)).shape == (2, width)
    with pytest.raises(BackboneError, match="grid: 1"):
        create_backbone("test_vit", grid=2)
