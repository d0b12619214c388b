"""Training steps, compared with forward and backward passes of the network alone."""

from collections.abc import Callable, Iterator
from typing import Literal

from bigru import BiGRU
from material import Material
from steps import Steps, cached_feature_steps
from timing import Row, compare
from torch import Tensor, nn

from dualpath.models.dual_encoder import DualEncoder
from dualpath.recipes.stages import RankingLossRecipe
from dualpath.training.batches import PixelSource

STAGE_TWO_BATCH = 32


def training_rows(material: Material) -> Iterator[Row]:
    """Measure Stage II on image files, and Stage I on cached features."""
    yield _stage_two(material, "hardest", target=1 / 1.15)
    yield _stage_two(material, "mined")
    yield _compare_with_text_cnn(cached_feature_steps(material, "flickr30k"), rounds=5)
    steps = cached_feature_steps(material, "flickr8k")
    yield _compare_with_text_cnn(steps, rounds=9)
    batch = steps.next_batch()
    yield compare(
        "training",
        _name(steps),
        steps.step,
        "forward and backward of both encoders",
        _pass(steps.network, batch.images, batch.token_ids),
        rounds=9,
    )
    bigru = BiGRU(material.tokenizer.num_embeddings, steps.recipe.text_encoder.embedding_dim)
    yield compare(
        "training",
        f"forward and backward of the text CNN, {len(batch.token_ids)} captions",
        _text_pass(steps.network.text_encoder, batch.token_ids),
        "a bidirectional GRU of 1,024 units",
        _text_pass(bigru, batch.token_ids),
        rounds=5,
    )


def _stage_two(
    material: Material, negatives: Literal["hardest", "mined"], target: float | None = None
) -> Row:
    recipe = material.recipe("flickr30k", test_size=None)
    stage = recipe.stages[-1].model_copy(
        update={
            "batch_size": STAGE_TWO_BATCH,
            "backbone": "trained",
            "ranking": RankingLossRecipe(negatives=negatives),
        }
    )
    source = PixelSource(material.files, 224, stage.flip, stage.crops)
    steps = Steps(recipe, stage, material, source, workers=1)
    batch = steps.first_batch()
    return compare(
        "training",
        f"Stage II step, ResNet-50 and the paper's text CNN, {STAGE_TWO_BATCH} JPEG files of "
        f"500 x 375, {negatives} negatives",
        steps.step,
        "forward and backward of the same network on a tensor",
        _pass(steps.network, batch.images, steps.augment(batch)),
        rounds=3,
        target=target,
    )


def _compare_with_text_cnn(steps: Steps, rounds: int) -> Row:
    return compare(
        "training",
        _name(steps),
        steps.step,
        "forward and backward of its text CNN",
        _text_pass(steps.network.text_encoder, steps.augment(steps.next_batch())),
        rounds=rounds,
        target=1 / 1.1,
    )


def _name(steps: Steps) -> str:
    images = steps.stage.batch_size
    captions = images * steps.stage.captions_per_image
    return f"Stage I step of {steps.recipe.name}, {images} images x {captions}"


def _pass(network: DualEncoder, images: Tensor, token_ids: Tensor) -> Callable[[], None]:
    """Return a function that runs the network forward and backward."""

    def run() -> None:
        image_features, text_features = network(images, token_ids)
        (image_features.sum() + text_features.sum()).backward()
        network.zero_grad(set_to_none=True)

    return run


def _text_pass(encoder: nn.Module, token_ids: Tensor) -> Callable[[], None]:
    """Return a function that runs a text encoder forward and backward."""

    def run() -> None:
        encoder(token_ids).sum().backward()
        encoder.zero_grad(set_to_none=True)

    return run
