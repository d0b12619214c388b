import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import resolve_model_data_config

from dualpath.errors import BackboneError
from dualpath.models.backbones import create_backbone, resolve_recipe
from tests.conftest import SMALL, small_recipe


def resolve(backbone, **changes):
    image = {"backbone": backbone, "pretrained": False, **changes}
    return resolve_recipe(small_recipe(image_encoder=image)).image_encoder


@pytest.mark.parametrize(
    "name",
    [
        "test_resnet",
        "test_efficientnet",
        "test_vit",
        "test_vit2",
        "test_convnext",
        "resnet50.tv_in1k",
        "tf_efficientnet_lite0",
        pytest.param("vgg19.tv_in1k", marks=pytest.mark.slow),
        "convnext_tiny",
        "vit_tiny_patch16_224",
    ],
)
def test_preprocessing_is_what_timm_resolves_for_the_created_model(name):
    resolved = resolve(name)
    expected = resolve_model_data_config(timm.create_model(name, pretrained=False))
    assert resolved.input_size == expected["input_size"][-1]
    assert resolved.mean == expected["mean"]
    assert resolved.std == expected["std"]


def test_the_recipe_overrides_the_preprocessing_of_the_backbone():
    resolved = resolve("test_resnet", input_size=48, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert (resolved.input_size, resolved.test_side) == (48, 48)
    assert (resolved.mean, resolved.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert resolve("test_resnet", input_size=48, test_size=64).test_side == 64


def test_a_resolved_recipe_equals_the_recipe_elsewhere():
    recipe = small_recipe()
    resolved = resolve_recipe(recipe)
    assert resolve_recipe(resolved) == resolved
    for name in type(recipe).model_fields:
        if name != "image_encoder":
            assert getattr(resolved, name) == getattr(recipe, name)
    given = {key: getattr(resolved.image_encoder, key) for key in SMALL["image_encoder"]}
    assert given == SMALL["image_encoder"]


@pytest.mark.parametrize(("written", "known"), [("resnet5", "resnet"), ("efficientnet", "effic")])
def test_an_unknown_backbone_is_named_with_similar_names(written, known):
    with pytest.raises(
        BackboneError, match=rf"timm has no model '{written}'; similar names: .*{known}"
    ):
        resolve(written)


@pytest.mark.parametrize(
    ("name", "dim"),
    [
        ("resnet50", 2048),
        pytest.param("vgg11", 4096, marks=pytest.mark.slow),
        ("tf_efficientnet_lite0", 1280),
        ("test_resnet", 96),
    ],
)
def test_any_timm_backbone_ends_in_pooled_features(name, dim):
    _, backbone_dim = create_backbone(name)
    assert backbone_dim == dim


def test_a_grid_separates_the_cells_and_their_mean_is_the_pooled_feature(tmp_path):
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


def test_means_of_earlier_maps_follow_the_cells(tmp_path):
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


@pytest.mark.parametrize(
    "name", ["test_vit", pytest.param("vgg11", marks=pytest.mark.slow), "tf_efficientnet_lite0"]
)
def test_any_timm_backbone_gives_earlier_maps(name):
    torch.manual_seed(1)
    backbone, width = create_backbone(name, feature_layers=[-2])
    size = resolve(name).input_size
    pixels = torch.randn(1, 3, size, size)
    with torch.no_grad():
        features, pooled = backbone.eval()(pixels), backbone[0](pixels)
    assert features.shape[1] == width > pooled.shape[1]
    torch.testing.assert_close(features[:, : pooled.shape[1]], pooled)


def test_layers_that_a_backbone_does_not_have_are_named():
    with pytest.raises(
        BackboneError, match=r"feature_layers: test_resnet has no intermediates \[9\]"
    ):
        create_backbone("test_resnet", feature_layers=[9])


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


def test_weights_that_cannot_be_downloaded_are_one_clear_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        BackboneError, match=r"weights of test_vit3 cannot be downloaded .*weights=FILE"
    ) as raised:
        create_backbone("test_vit3", pretrained=True)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_vggs_feature_is_before_its_last_relu():
    backbone, dim = create_backbone("vgg11")
    assert dim == 4096
    with torch.no_grad():
        assert backbone.eval()(torch.randn(1, 3, 224, 224)).min() < 0


def test_a_vision_transformer_is_a_backbone_too_but_has_no_grid():
    backbone, width = create_backbone("test_vit")
    assert backbone(torch.zeros(2, 3, 160, 160)).shape == (2, width)
    with pytest.raises(BackboneError, match="grid: 1"):
        create_backbone("test_vit", grid=2)
