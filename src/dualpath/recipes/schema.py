"""The schema of a recipe: everything that repeats a training, except the data.

A recipe is a YAML file that is read into the pydantic models of this package. An unknown key, a
value of the wrong type or a value out of range is an error that names the key.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dualpath.recipes.base import Positive, Share, StrictModel
from dualpath.recipes.encoders import ImageEncoderRecipe, ResolvedImageEncoder, TextEncoderRecipe
from dualpath.recipes.old_keys import upgrade
from dualpath.recipes.stages import ClassifierRecipe, StageRecipe


class SplitRecipe(StrictModel):
    """Shares of the splits that are drawn for instances without a split in the manifest."""

    train: Share = 0.8
    val: Share = 0.1
    test: Share = 0.1

    @model_validator(mode="after")
    def _sums_to_one(self) -> "SplitRecipe":
        if abs(self.train + self.val + self.test - 1.0) > 1e-6:
            raise ValueError("train, val and test must sum to 1")
        return self


class ExpectedRecipe(StrictModel):
    """Sizes of the data of a published training: words of the vocabulary, images, instances."""

    words: Positive
    images: Positive
    instances: Positive


class Recipe(StrictModel):
    """A whole training.

    Attributes:
        name: of the model.
        description: what the recipe is for, in one sentence.
        seed: of everything drawn at random.
        reference_size: number of training images that epochs, batch sizes and learning rates are
            written for. With more or fewer images they follow the rules of ``recipes/scaling.py``.
        split: shares of the splits for images without one.
        expected: sizes that ``--dry-run`` assumes.
        dim: length of an embedding.
        num_heads: the embedding consists of this many vectors of ``dim / num_heads`` numbers, each
            with heads, classes and losses of its own: an ensemble in one network.
        relu_before_loss: the losses see the features after the heads' last ReLU, and test features
            are taken before it, as in the authors' code. If false, both are taken before it.
        batch_norm: which running statistics the batch normalisation of the heads and the text
            encoder keeps for the test. ``torch``: averages of mean and unbiased variance.
            ``paper``: averages of mean and ``sqrt(biased variance + 0.001)``, as in the authors'
            code.
        image_encoder, text_encoder, classifier: the networks.
        stages: in the order in which they run.
        keep: which weights the bundle gets: the ``best`` on validation, or the ``last``.
        mixed_precision: of the forward pass.
        workers: threads or processes that decode images.
        checkpoint_minutes: time between two checkpoints.
    """

    name: str
    description: str = ""
    seed: int = 0
    reference_size: Positive | None = None
    split: SplitRecipe = SplitRecipe()
    expected: ExpectedRecipe | None = None
    dim: Positive = 2048
    num_heads: Positive = 1
    relu_before_loss: bool = False
    batch_norm: Literal["torch", "paper"] = "torch"
    image_encoder: ImageEncoderRecipe = ImageEncoderRecipe()
    text_encoder: TextEncoderRecipe = TextEncoderRecipe()
    classifier: ClassifierRecipe = ClassifierRecipe()
    stages: Annotated[tuple[StageRecipe, ...], Field(min_length=1)]
    keep: Literal["best", "last"] = "best"
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    workers: Annotated[int, Field(ge=0)] = 2
    checkpoint_minutes: Annotated[float, Field(ge=0.0)] = 5.0

    @model_validator(mode="before")
    @classmethod
    def _accept_old_keys(cls, values: Any) -> Any:
        return upgrade(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _check_heads(self) -> "Recipe":
        if self.dim % self.num_heads:
            raise ValueError(f"dim ({self.dim}) is not divisible by num_heads ({self.num_heads})")
        if self.num_heads > 1 and self.classifier.projection_dim is not None:
            raise ValueError(
                "classifier.projection_dim mixes the heads; remove it, or set num_heads: 1"
            )
        return self

    @model_validator(mode="after")
    def _check_bias(self) -> "Recipe":
        classifier = self.classifier
        plain = all(
            stage.instance is None or stage.instance.logit_scale is None for stage in self.stages
        )
        whole = classifier.shared and classifier.sample_rate == 1.0 and self.num_heads == 1
        if classifier.bias and not (plain and whole):
            raise ValueError(
                "classifier.bias needs shared: true, sample_rate: 1, num_heads: 1 and stages "
                "without instance.logit_scale"
            )
        return self


class ResolvedRecipe(Recipe):
    """A recipe in which nothing is left to the backbone: what training and bundles work with."""

    image_encoder: ResolvedImageEncoder
    # The bundle of a pretrained image-text model has none.
    stages: tuple[StageRecipe, ...] = ()
