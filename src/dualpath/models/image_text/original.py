"""A pretrained image-text model as its own library loads it, and what a bundle needs of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor, nn

from dualpath.models.image_text.spec import ImageTextSpec
from dualpath.recipes.encoders import Cleaning
from dualpath.recipes.preprocessing import PreprocessingRecipe

Triple = tuple[float, float, float]
TokenRows = list[list[int]]


@dataclass(frozen=True)
class OriginalModel:
    """A model, read by its own library.

    Attributes:
        model: both towers.
        spec: its architecture.
        dim: length of an embedding.
        input_size: pixels per side.
        preprocessing, mean, std: of its images.
        tokenizer_json: its tokenizer in the format of Hugging Face ``tokenizers``.
        cleaning: what its tokenizer does to a text first.
        logit_scale: factor of the cosine in its loss.
        logit_bias: summand of its sigmoid loss. None: it was trained with a softmax loss.
        licence: of the weights, as the model card says. None: it does not say.
        preprocess: its own preprocessing: images to normalised pixels, (n, 3, h, w).
        tokenize: its own tokenizer: texts to token ids without padding.
    """

    model: nn.Module
    spec: ImageTextSpec
    dim: int
    input_size: int
    preprocessing: PreprocessingRecipe
    mean: Triple
    std: Triple
    tokenizer_json: str
    cleaning: Cleaning
    logit_scale: float
    logit_bias: float | None
    licence: str | None
    preprocess: Callable[[Sequence[Image.Image]], Tensor]
    tokenize: Callable[[Sequence[str]], TokenRows]
