import torch
import torch.nn.functional as F

from dualpath.models.dual_encoder import build_network
from tests.conftest import small_resolved_recipe


def test_sliding_over_an_image_of_the_input_size_is_the_plain_forward_pass():
    changes = {"backbone": "test_resnet", "pretrained": False, "input_size": 64, "test_size": 64}
    network = build_network(small_resolved_recipe(image_encoder=changes), 5).eval()
    pixels = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(
            network.image_encoder.sliding_forward(pixels), network.image_encoder(pixels)
        )
        wide = torch.cat([pixels, pixels], dim=3)  # 4 columns of the map: 3 windows of 2
        assert network.image_encoder.sliding_forward(wide).shape == (2, 32)
        vectors = network.embed_sliding(pixels)
        torch.testing.assert_close(vectors, network.embed_images(pixels))


def test_an_image_embedding_is_the_direction_of_the_sum_over_its_views():
    torch.manual_seed(0)
    network = build_network(small_resolved_recipe(), 5).eval()
    views = [torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8) for _ in range(3)]
    with torch.no_grad():
        features = sum(network.image_encoder(view) for view in views)
    torch.testing.assert_close(network.embed_images(*views), F.normalize(features))


def test_a_forward_pass_gives_features_of_both_encoders():
    torch.manual_seed(0)
    network = build_network(small_resolved_recipe(), 9).eval()
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    token_ids = torch.randint(1, 9, (5, 14))
    with torch.no_grad():
        images, texts = network(pixels, token_ids)
        torch.testing.assert_close(images, network.image_encoder(pixels))
        torch.testing.assert_close(texts, network.text_encoder(token_ids))
    assert images.shape == (2, 32)
    assert texts.shape == (5, 32)
