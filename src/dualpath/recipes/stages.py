"""The part of a recipe that describes a stage: losses, optimiser, schedule, what is frozen."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dualpath.recipes.base import Positive, Share, StrictModel

ParameterGroup = Literal[
    "image_backbone",
    "image_head",
    "word_embedding",
    "text_backbone",
    "text_trunk",
    "norm_scale",
    "classifier",
    # Parts of a group above, set apart where a recipe gives them a rate of their own.
    "backbone_first_conv",
    "backbone_norm_scale",
    "backbone_bias",
    "classifier_bias",
]


_LOSSES = ("instance", "ranking", "contrastive")  # at least one in a stage


class InstanceLossRecipe(StrictModel):
    """Instance loss (paper, eq. 3 to 5).

    Attributes:
        image_weight: weight of the loss of images.
        text_weight: of captions.
        logit_scale: features and classes are normalised and their cosine is multiplied by this
            value. If it is not set, logits are plain dot products (the paper's way).
        dropout: dropout rate of the features before the classifier.
    """

    image_weight: Annotated[float, Field(ge=0.0)] = 1.0
    text_weight: Annotated[float, Field(ge=0.0)] = 1.0
    logit_scale: Annotated[float, Field(gt=0.0)] | None = None
    dropout: Share = 0.0


class ClassifierRecipe(StrictModel):
    """The shared classifier of the instance loss.

    Attributes:
        shared: false gives images and captions a classifier each (ablation: nothing then ties the
            two encoders together).
        clusters: classes are this many k-means clusters of backbone features instead of the
            instances (ablation: nothing then separates the images of one cluster).
        projection_dim: project features to this many numbers before the classifier. Saves memory
            with millions of classes.
        sample_rate: share of the classes that take part in a step: those of the batch and others
            drawn at random (An et al., "Partial FC", 2021). Below 1, only their rows are updated,
            by Adam without weight decay.
        bias: add a number to the logit of each class, as two of the authors' networks do. Needs
            ``shared``, all classes, one head and plain logits.
    """

    shared: bool = True
    clusters: Annotated[int, Field(ge=2)] | None = None
    projection_dim: Positive | None = None
    sample_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    bias: bool = False


class RankingLossRecipe(StrictModel):
    """Ranking loss (paper, eq. 6).

    Attributes:
        weight: of this loss.
        margin: of the hinge, on cosines.
        negatives: ``random``, ``hardest`` or ``all`` of the batch, or ``mined``: the hardest of
            ``candidates`` training captions drawn for each batch, and a random image of the batch
            (the authors' code for Flickr30k and MSCOCO).
        candidates: captions to mine from.
    """

    weight: Annotated[float, Field(gt=0.0)] = 1.0
    margin: Annotated[float, Field(gt=0.0)] = 1.0
    negatives: Literal["random", "hardest", "all", "mined"] = "random"
    candidates: Positive = 256


class ContrastiveLossRecipe(StrictModel):
    """In-batch softmax over cosines divided by ``temperature`` (InfoNCE), both directions."""

    weight: Annotated[float, Field(gt=0.0)] = 1.0
    temperature: Annotated[float, Field(gt=0.0)] = 0.05


class DistillationRecipe(StrictModel):
    """Captions learn the embeddings of a trained model, the teacher.

    Attributes:
        teacher: a bundle of the same ``dim`` and image encoder, whose weights the image encoder
            starts from. Without ``word_vectors``, each word starts from the teacher's embedding of
            that word.
        weight: of this loss.
        captions: further captions without images: a text file, one a line, or JSON Lines with
            ``captions``.
        captions_per_batch: how many of them join each batch.
    """

    teacher: Path
    weight: Annotated[float, Field(gt=0.0)] = 10.0
    captions: Path | None = None
    captions_per_batch: Positive = 256


class OptimizerRecipe(StrictModel):
    """Optimiser of a stage.

    Attributes:
        name: ``sgd`` (Nesterov) or ``adamw``.
        lr: learning rate.
        momentum: of ``sgd``.
        weight_decay: on every parameter under ``sgd`` (the paper's way), on matrices alone under
            ``adamw``.
        layer_decay: each layer of the image backbone has this share of the learning rate of the
            next layer, so that early layers change least.
        rates: factors of ``lr`` for the named parameter groups. ``backbone_first_conv`` (the weight
            of the first convolution), ``backbone_norm_scale`` (the scales of its batch
            normalisation) and ``backbone_bias`` (its biases) have the factor of ``image_backbone``
            unless they are named, and ``classifier_bias`` that of ``classifier``.
    """

    name: Literal["sgd", "adamw"] = "adamw"
    lr: Annotated[float, Field(gt=0.0)] = 1e-3
    momentum: Share = 0.9
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-4
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    rates: dict[ParameterGroup, Annotated[float, Field(ge=0.0)]] = Field(default_factory=dict)


class ScheduleRecipe(StrictModel):
    """Learning rate over a stage: linear warm-up, then constant, cosine to zero, or steps.

    Attributes:
        warmup: share of the steps of the stage.
        decay: what follows the warm-up.
        milestones: epochs after which ``steps`` multiplies the rate by ``factor``.
    """

    warmup: Share = 0.0
    decay: Literal["constant", "cosine", "steps"] = "constant"
    milestones: tuple[Positive, ...] = ()
    factor: Share = 0.1


class StageRecipe(StrictModel):
    """One stage of training: what is frozen, which losses, which learning rates, which views.

    Attributes:
        name: shown in logs.
        epochs: passes over the training images.
        batch_size: images in a batch.
        captions_per_image: captions drawn for each image.
        captions_of: draw an image's captions from its own (``image``) or from all of its instance
            (``instance``: the paper's way on CUHK-PEDES).
        backbone: of the image encoder: ``frozen``, ``frozen_batch_norm`` (weights frozen, batch
            statistics in training, as in the authors' code), ``trained``, or
            ``trained_running_norm`` (trained, with the pretrained running statistics).
        last_layers: train only this many layers of the backbone, counted from its output.
        backbone_running_rate: share of a batch in the running statistics of a ``trained`` backbone.
            If it is not set, the backbone's own, 0.1 for most.
        sentence_encoder: ``trained`` or ``frozen``; its features are cached if it is frozen.
        flip: mirror images at random.
        crops: number of fixed random crops per image, or ``random``
            for a new crop each time.
        instance, ranking, contrastive, distillation: the losses of the stage.
        optimizer, schedule: how weights are updated.
        validate_every: epochs between two validations.
    """

    name: str
    epochs: Positive
    batch_size: Annotated[int, Field(ge=2)] = 32
    captions_per_image: Positive = 1
    captions_of: Literal["image", "instance"] = "image"
    backbone: Literal["trained", "trained_running_norm", "frozen", "frozen_batch_norm"] = "trained"
    last_layers: Positive | None = None
    backbone_running_rate: Share | None = None
    sentence_encoder: Literal["trained", "frozen"] = "trained"
    flip: bool = True
    crops: Annotated[int, Field(ge=0)] | Literal["random"] = 0
    instance: InstanceLossRecipe | None = None
    ranking: RankingLossRecipe | None = None
    contrastive: ContrastiveLossRecipe | None = None
    distillation: DistillationRecipe | None = None
    optimizer: OptimizerRecipe = OptimizerRecipe()
    schedule: ScheduleRecipe = ScheduleRecipe()
    validate_every: Positive = 1

    @model_validator(mode="after")
    def _check_losses(self) -> "StageRecipe":
        if all(getattr(self, name) is None for name in _LOSSES):
            raise ValueError("a stage needs at least one loss: " + ", ".join(_LOSSES))
        mined = self.ranking is not None and self.ranking.negatives == "mined"
        if mined and self.distillation:
            raise ValueError("distillation and mined negatives cannot be combined")
        if self.sentence_encoder == "frozen" and (mined or self.distillation):
            raise ValueError(
                "a frozen sentence encoder can be combined with neither mined negatives nor "
                "distillation"
            )
        return self
