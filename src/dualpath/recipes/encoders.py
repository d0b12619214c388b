"""The part of a recipe that describes the two encoders."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dualpath.recipes.base import Positive, Share, StrictModel
from dualpath.recipes.preprocessing import PreprocessingRecipe

# The backbone and the trunk of a bundle of a pretrained image-text model.
IMAGE_TEXT = "image_text"
Cleaning = Literal["none", "whitespace", "openai", "canonicalize", "siglip"]


class TextEncoderRecipe(StrictModel):
    """Tokenizer and text encoder (paper, section 3.2).

    Attributes:
        trunk: the text encoder by its name in ``models/text/registry.py``. ``bottleneck`` is the
            paper's text CNN and uses ``depths``, ``padding`` and ``position_shift``. ``residual``
            is a shallow text CNN and uses ``layers`` and ``dropout``. ``image_text`` is that of a
            pretrained image-text model, in its bundle. Ignored beside ``transformer``.
        transformer: a pretrained Hugging Face sentence encoder, by name or folder, instead of a
            text CNN. It brings its own tokenizer (``vocabulary: subword``).
        feature_layers: layers of the sentence encoder whose states the head reads, averaged over
            the tokens. 0 is the embedded tokens, -1 the last layer.
        vocabulary: ``paper``: words with a word vector, case-sensitive. ``modern``: lower-cased
            words seen at least ``min_count`` times. ``subword``: the sentence encoder's tokens.
        split_question_marks: whether ``?`` ends a word in the ``paper`` vocabulary, as it does in
            the authors' code for MSCOCO alone.
        min_count: occurrences a word needs to enter the ``modern`` vocabulary.
        cleaning: what the tokenizer of a pretrained image-text model does to a text first
            (:mod:`dualpath.data.text_cleaning`).
        max_words: words (or tokens) of a caption that are used; the rest is cut off.
        word_vectors: file of pretrained word vectors (word2vec, GloVe or fastText format).
        embedding_dim: length of a word vector; the word-vector file overrides it.
        layers: residual convolutions of ``residual``.
        dropout: dropout rate before the last layer.
        width: multiplies the number of channels; 1 is 2,048 channels at the end.
        depths: blocks of each of the four stages of ``bottleneck``.
        padding: ``unmasked`` lets padding take part in statistics and pooling (the paper's way).
        pooling: over the words.
        position_shift: place each caption at a random position in training, and average over the
            positions at test (paper, section 4.1).
        word_dropout: rate at which words are replaced by ``[UNK]`` in training.
    """

    trunk: str = "bottleneck"
    transformer: str | None = None
    feature_layers: Annotated[tuple[int, ...], Field(min_length=1)] = (-1,)
    vocabulary: Literal["paper", "modern", "subword"] = "modern"
    split_question_marks: bool = True
    min_count: Positive = 2
    cleaning: Cleaning = "none"
    max_words: Positive = 32
    word_vectors: Path | None = None
    embedding_dim: Positive = 300
    layers: Annotated[int, Field(ge=0)] = 2
    dropout: Share = 0.0
    width: Annotated[float, Field(gt=0.0)] = 1.0
    depths: tuple[Positive, Positive, Positive, Positive] = (3, 4, 6, 1)
    padding: Literal["masked", "unmasked"] = "masked"
    pooling: Literal["max", "mean"] = "max"
    position_shift: bool = True
    word_dropout: Share = 0.0

    @model_validator(mode="before")
    @classmethod
    def _set_transformer_defaults(cls, values: Any) -> Any:
        if isinstance(values, dict) and (
            values.get("transformer") or values.get("trunk") == IMAGE_TEXT
        ):
            own = {"vocabulary": "subword", "position_shift": False, "max_words": 64}
            return own | values
        return values

    @model_validator(mode="after")
    def _check_transformer(self) -> "TextEncoderRecipe":
        cnn_only = self.position_shift or self.word_dropout or self.word_vectors
        has_tokenizer = self.transformer is not None or self.trunk == IMAGE_TEXT
        if (self.vocabulary == "subword") != has_tokenizer:
            raise ValueError("vocabulary: subword and transformer need each other")
        if has_tokenizer and cnn_only:
            raise ValueError(
                "position_shift, word_dropout and word_vectors belong to a text CNN; remove them "
                "or remove transformer"
            )
        return self

    @model_validator(mode="after")
    def _check_paper_vocabulary(self) -> "TextEncoderRecipe":
        if self.vocabulary == "paper" and self.word_vectors is None:
            raise ValueError(
                "the paper vocabulary keeps the words that have a vector: set word_vectors to a "
                "word2vec, GloVe or fastText file, or use vocabulary: modern"
            )
        if self.vocabulary == "paper" and self.word_dropout:
            raise ValueError("word_dropout needs [UNK], which the paper vocabulary does not have")
        return self

    @property
    def description(self) -> str:
        """The text encoder in a few words, for people."""
        if self.transformer is not None:
            return f"sentence encoder {Path(self.transformer).name}"
        if self.trunk == IMAGE_TEXT:
            return "of the image-text model"
        if self.trunk == "bottleneck":
            return f"text CNN of width {self.width:g}, depths {self.depths}"
        return f"{self.trunk} text CNN of width {self.width:g}, {self.layers} layers"


class ImageEncoderRecipe(StrictModel):
    """Backbone and head of the image encoder (paper, section 3.1).

    Attributes:
        backbone: a timm model name; ``image_text`` in the bundle of a pretrained image-text model.
        pretrained: load timm's pretrained weights from the Hugging Face hub.
        weights: a local file of backbone weights, used instead of the hub.
        input_size: side of the input in pixels. If it is not set, training takes the backbone's.
        grid: the last feature map is averaged over ``grid`` x ``grid`` cells, all of which the head
            sees. 1 is the paper's global pooling; 2 keeps left and right apart.
        feature_layers: earlier feature maps whose means the head sees beside the last one, as
            indices of timm's intermediates. -1 is the last intermediate.
        dropout: dropout rate of the head's hidden layer.
        test_size: at test the image keeps its aspect ratio, its shorter side has this many pixels
            and the network slides over it (the paper's 256). If it is not set, images are squashed
            to ``input_size``.
        mean: of RGB in [0, 1]. If it is not set, training takes the backbone's.
        std: of RGB in [0, 1]. If it is not set, training takes the backbone's.
        flip_average: an embedding is averaged over the image and its mirror image.
        preprocessing: of a pretrained image-text model, instead of squashing to ``input_size``.
        tta_crops: test-time augmentation: an embedding is also averaged over this many crops (and
            their mirror images if ``flip_average``). Each costs one forward pass.
    """

    backbone: str = "resnet50"
    pretrained: bool = True
    weights: Path | None = None
    input_size: Positive | None = None
    grid: Positive = 1
    feature_layers: tuple[int, ...] = ()
    dropout: Share = 0.0
    test_size: Positive | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    preprocessing: PreprocessingRecipe | None = None
    flip_average: bool = True
    tta_crops: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check_sliding(self) -> "ImageEncoderRecipe":
        if self.preprocessing is not None and (self.test_size is not None or self.tta_crops):
            raise ValueError("preprocessing fixes the input; remove test_size and tta_crops")
        if self.test_size is not None and self.tta_crops:
            raise ValueError("test_size slides over the whole image; set tta_crops: 0")
        if self.test_size is not None and (self.grid > 1 or self.feature_layers):
            raise ValueError(
                "test_size slides over the last feature map; set grid: 1 and feature_layers: []"
            )
        return self

    @property
    def description(self) -> str:
        """The image encoder in a few words, for people."""
        return "of the image-text model" if self.backbone == IMAGE_TEXT else self.backbone


class ResolvedImageEncoder(ImageEncoderRecipe):
    """An image encoder whose preprocessing is known: nothing is left to the backbone."""

    input_size: Positive
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def test_side(self) -> int:
        """Pixels of the shorter side of an image at test."""
        return self.test_size or self.input_size
