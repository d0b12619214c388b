"""The recipe: everything a training needs to be repeated, beside the manifest.

A recipe is a YAML file. It is read into the pydantic models below, so an unknown key, a value
of the wrong type or one out of range is an error that names the key.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]

ParameterGroup = Literal[
    "image_backbone",
    "image_head",
    "word_embedding",
    "text_backbone",
    "text_trunk",
    "norm_scale",
    "classifier",
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SplitRecipe(_Strict):
    """Shares of the splits that are drawn for instances the manifest gives no split."""

    train: Fraction = 0.8
    val: Fraction = 0.1
    test: Fraction = 0.1

    @model_validator(mode="after")
    def _sums_to_one(self) -> "SplitRecipe":
        if abs(self.train + self.val + self.test - 1.0) > 1e-6:
            raise ValueError("train, val and test must sum to 1")
        return self


class TextEncoderRecipe(_Strict):
    """Tokenizer and text CNN (paper, section 3.2; layer table in ``models/text_cnn.py``).

    ``trunk``: ``bottleneck`` is the paper's, of which ``depths``, ``padding`` and
    ``position_shift`` tell; ``residual`` is ``models/text_residual.py``, of which ``layers`` and
    ``dropout`` tell. ``width`` 1 is 2,048 channels in either.
    ``transformer``: a pretrained Hugging Face sentence encoder, by name or folder, instead of the
    text CNN. It brings its own words (``vocabulary: subword``), of which ``max_words`` are kept;
    ``states`` are the layers whose states its head reads, averaged over the tokens (0: the embedded
    tokens, -1: the last layer); ``dropout`` is of that head.
    """

    transformer: str | None = None
    states: Annotated[tuple[int, ...], Field(min_length=1)] = (-1,)
    vocabulary: Literal["paper", "modern", "subword"] = "modern"
    min_count: Positive = 2
    max_words: Positive = 32
    word_vectors: Path | None = None
    embedding_dim: Positive = 300
    trunk: Literal["bottleneck", "residual"] = "bottleneck"
    layers: Annotated[int, Field(ge=0)] = 2
    dropout: Fraction = 0.0
    width: Annotated[float, Field(gt=0.0)] = 1.0
    depths: tuple[Positive, Positive, Positive, Positive] = (3, 4, 6, 1)
    padding: Literal["masked", "unmasked"] = "masked"
    pooling: Literal["max", "mean"] = "max"
    position_shift: bool = True
    word_dropout: Fraction = 0.0

    @model_validator(mode="before")
    @classmethod
    def _transformer_brings_its_words(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("transformer"):
            own = {"vocabulary": "subword", "position_shift": False, "max_words": 64}
            return own | values
        return values

    @model_validator(mode="after")
    def _transformer_has_no_words_of_ours(self) -> "TextEncoderRecipe":
        ours = self.position_shift or self.word_dropout or self.word_vectors
        if (self.vocabulary == "subword") != (self.transformer is not None):
            raise ValueError("vocabulary: subword and transformer belong together")
        if self.transformer and ours:
            raise ValueError(
                "position_shift, word_dropout and word_vectors are of the text CNN; leave them out "
                "beside transformer"
            )
        return self

    @model_validator(mode="after")
    def _paper_vocabulary_has_what_it_needs(self) -> "TextEncoderRecipe":
        if self.vocabulary == "paper" and self.word_vectors is None:
            raise ValueError(
                "the paper vocabulary keeps the words that have a vector: set word_vectors to a "
                "word2vec, GloVe or fastText file, or use vocabulary: modern"
            )
        if self.vocabulary == "paper" and self.word_dropout:
            raise ValueError("word_dropout needs [UNK], which the paper vocabulary has not")
        return self


class ImageEncoderRecipe(_Strict):
    """Backbone and head of the image path.

    ``mean``, ``std`` (of RGB in [0, 1]) and ``input_size`` (pixels) are filled in from the
    backbone's own preprocessing when training starts, so that a bundle always carries them.
    ``grid``: the backbone's last map is averaged over so many cells a side, and the head sees all
    of them; 1 is the paper's global pooling, 2 also tells left from right and above from below.
    ``states``: earlier maps of the backbone whose means the head sees beside the last one, by their
    places among timm's intermediates (-1: the last of those, before the layers that end a CNN).
    ``dropout``: of the head's hidden layer.
    ``test_size``: at test the picture keeps its aspect, its shorter side has so many pixels, and
    the network slides over it (the paper's 256); none squashes it to ``input_size``.
    ``flip_average``, ``average_crops``: what a picture's embedding is the mean of, beside the whole
    as it is: mirrored, and so many crops, each both ways where mirrored. Training pays nothing;
    embedding a picture costs one pass for each.
    """

    backbone: str = "resnet50"
    pretrained: bool = True
    weights: Path | None = None
    input_size: Positive | None = None
    grid: Positive = 1
    states: tuple[int, ...] = ()
    dropout: Fraction = 0.0
    test_size: Positive | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    flip_average: bool = True
    average_crops: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _slides_over_one_cell(self) -> "ImageEncoderRecipe":
        if self.test_size is not None and self.average_crops:
            raise ValueError("test_size slides over the whole picture, set average_crops: 0")
        if self.test_size is not None and (self.grid > 1 or self.states):
            raise ValueError(
                "test_size slides over the picture's last map; set grid: 1 and states: []"
            )
        return self


class InstanceLossRecipe(_Strict):
    """Instance loss (paper, eq. 3-5). ``scale`` none: plain logits; else normalised logits."""

    image_weight: Annotated[float, Field(ge=0.0)] = 1.0
    text_weight: Annotated[float, Field(ge=0.0)] = 1.0
    scale: Annotated[float, Field(gt=0.0)] | None = None
    dropout: Fraction = 0.0


class ClassifierRecipe(_Strict):
    """The classifier of the instance loss.

    ``shared`` false: one for each path, which takes away what ties the paths together (ablation).
    ``clusters``: classes are so many k-means clusters of the backbone's features instead of the
    instances themselves (ablation; pictures of a cluster are then not told apart).
    For millions of classes: ``projection`` makes features so many numbers before the classifier,
    and ``fraction`` takes so much of the classes in a step, those of the batch and others at random
    (Partial FC); their rows alone are then updated, by Adam without weight decay.
    """

    shared: bool = True
    clusters: Annotated[int, Field(ge=2)] | None = None
    projection: Positive | None = None
    fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0


class RankingLossRecipe(_Strict):
    """Ranking loss (paper, eq. 6).

    ``negatives``: one at random, the hardest or all of the batch; or ``mined``: the hardest of
    ``candidates`` training captions drawn afresh for each batch, and a picture at random (the
    authors' code for Flickr30k and MSCOCO).
    """

    weight: Annotated[float, Field(gt=0.0)] = 1.0
    margin: Annotated[float, Field(gt=0.0)] = 1.0
    negatives: Literal["random", "hardest", "all", "mined"] = "random"
    candidates: Positive = 256


class ContrastiveLossRecipe(_Strict):
    """In-batch softmax over cosines (InfoNCE), both directions."""

    weight: Annotated[float, Field(gt=0.0)] = 1.0
    temperature: Annotated[float, Field(gt=0.0)] = 0.05


class DistillationRecipe(_Strict):
    """Sentences learn to lie where those of a trained model do, and pictures begin as they do.

    ``teacher``: a bundle of the same ``dim`` and image path. Where there are no ``word_vectors``,
    words begin where it embeds each of them as a sentence. ``captions``: further sentences
    without pictures (a text file, or JSON lines with ``captions``), ``captions_per_batch`` of which
    join each batch.
    """

    teacher: Path
    weight: Annotated[float, Field(gt=0.0)] = 10.0
    captions: Path | None = None
    captions_per_batch: Positive = 256


class OptimizerRecipe(_Strict):
    """Optimiser; ``rates`` multiply ``lr`` for the named parameter groups.

    ``layer_decay``: each layer of the image backbone has this share of the rate of the layer after
    it, so that what is general changes least. Weight decay acts on every parameter under ``sgd``
    (as in the paper) and on matrices alone under ``adamw``.
    """

    name: Literal["sgd", "adamw"] = "adamw"
    lr: Annotated[float, Field(gt=0.0)] = 1e-3
    momentum: Fraction = 0.9
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-4
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    rates: dict[ParameterGroup, Annotated[float, Field(ge=0.0)]] = {}


class ScheduleRecipe(_Strict):
    """Learning rate over a stage: linear warm-up, then constant, cosine to zero, or steps."""

    warmup: Fraction = 0.0
    decay: Literal["constant", "cosine", "steps"] = "constant"
    milestones: tuple[Positive, ...] = ()
    factor: Fraction = 0.1


class StageRecipe(_Strict):
    """One stage of training: what is frozen, which losses, which rates, which views.

    ``captions_of``: whether a picture meets its own captions, or any of its instance (the
    paper's way on CUHK-PEDES, where a caption may tell of another picture of the person).
    ``last_layers``: of a trained backbone, train only so many of its layers, counted from the end.
    ``sentence_encoder``: of a transformer text path; frozen, its features are kept like those of
    a frozen backbone.
    """

    name: str
    epochs: Positive
    batch_size: Annotated[int, Field(ge=2)] = 32
    captions_per_picture: Positive = 1
    captions_of: Literal["picture", "instance"] = "picture"
    backbone: Literal["trained", "trained_running_norm", "frozen", "frozen_batch_norm"] = "trained"
    last_layers: Positive | None = None
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
    def _has_a_loss(self) -> "StageRecipe":
        if not (self.instance or self.ranking or self.contrastive):
            raise ValueError("a stage needs at least one of instance, ranking, contrastive")
        mined = self.ranking is not None and self.ranking.negatives == "mined"
        if mined and self.distillation:
            raise ValueError("distillation and mined negatives do not go together")
        if self.sentence_encoder == "frozen" and (mined or self.distillation):
            raise ValueError(
                "a frozen sentence encoder goes with neither mined negatives nor distillation"
            )
        return self


class ExpectedRecipe(_Strict):
    """What the data of a published training gave: words of the vocabulary, pictures, instances."""

    words: Positive
    pictures: Positive
    instances: Positive


class Recipe(_Strict):
    """A whole training. ``dim`` is the width of the shared space.

    ``scale``: the number of training pictures that epochs, batches and rates are written for; with
    more or fewer of them they follow the rules of ``training/scaling.py``.

    ``parts``: the embedding is so many vectors of ``dim / parts`` numbers side by side, each with
    heads, classes and losses of its own: an ensemble in one network.

    ``relu`` true: the losses see the features after the heads' last ReLU and the test features
    are taken before it, as in the paper's code; false: both are taken before it.
    """

    name: str
    seed: int = 0
    scale: Positive | None = None
    split: SplitRecipe = SplitRecipe()
    expected: ExpectedRecipe | None = None
    dim: Positive = 2048
    parts: Positive = 1
    relu: bool = False
    image_encoder: ImageEncoderRecipe = ImageEncoderRecipe()
    text_encoder: TextEncoderRecipe = TextEncoderRecipe()
    classifier: ClassifierRecipe = ClassifierRecipe()
    stages: Annotated[tuple[StageRecipe, ...], Field(min_length=1)]
    keep: Literal["best", "last"] = "best"
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    workers: Annotated[int, Field(ge=0)] = 2
    checkpoint_minutes: Annotated[float, Field(ge=0.0)] = 5.0

    @model_validator(mode="after")
    def _parts_are_equal(self) -> "Recipe":
        if self.dim % self.parts:
            raise ValueError(f"dim ({self.dim}) cannot be cut into {self.parts} equal parts")
        if self.parts > 1 and self.classifier.projection is not None:
            raise ValueError("classifier.projection mixes the parts; leave it out, or set parts: 1")
        return self
