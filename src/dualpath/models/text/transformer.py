"""A pretrained Hugging Face sentence encoder as the text encoder, with the head of the images.

The states of a layer are averaged over the tokens and normalised, as sentence encoders are trained
to be used (Reimers and Gurevych, "Sentence-BERT", EMNLP 2019). The head may read several layers:
earlier ones still separate words that later ones merge.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dualpath.errors import TextEncoderError
from dualpath.models.fingerprint import digest_weights
from dualpath.models.layers import projection_head
from dualpath.models.text.base import TextEncoderSpec
from dualpath.models.text.pretrained import PretrainedTextEncoder
from dualpath.utils.text import error_reason

CONFIG_FILE = "sentence_encoder.json"  # in a bundle
_HEAD_HIDDEN = 1024  # width of the head's hidden layer
_KEY_BYTES = 12


class TransformerTextEncoder(PretrainedTextEncoder):
    """Embed captions: sentence encoder, mean over tokens, linear, BN, ReLU, linear, BN.

    Args:
        backbone: a ``transformers`` encoder.
        dim: length of an embedding.
        hidden: width of the head's hidden layer.
        feature_layers: layers whose states the head reads, side by side. 0 is the embedded tokens,
            -1 the last layer.
        dropout: dropout rate of the head's hidden layer.
        num_heads: equal parts of the embedding, each with a head of its own.

    Raises:
        TextEncoderError: the sentence encoder has no such layer.
    """

    has_unused_parameters = True  # the pooler, and layers after the last one that is read

    def __init__(
        self,
        backbone: Any,
        dim: int,
        *,
        hidden: int,
        feature_layers: Sequence[int] = (-1,),
        dropout: float = 0.0,
        num_heads: int = 1,
    ) -> None:
        super().__init__()
        layers = int(backbone.config.num_hidden_layers)
        missing = [layer for layer in feature_layers if not -layers - 1 <= layer <= layers]
        if missing:
            raise TextEncoderError(
                f"text_encoder.feature_layers: {missing[0]} does not exist; this sentence encoder "
                f"has {layers} layers: 0 is the embedded tokens, {layers} or -1 the last layer"
            )
        self.backbone = backbone
        self.feature_layers = tuple(range(layers + 1)[layer] for layer in feature_layers)
        self.feature_dim: int = len(feature_layers) * int(backbone.config.hidden_size)
        self.head = projection_head(
            self.feature_dim, hidden, dim, dropout=dropout, num_heads=num_heads
        )

    @classmethod
    def from_recipe(cls, spec: TextEncoderSpec) -> "TransformerTextEncoder":
        """Build the encoder with random weights, or with pretrained ones if the spec says so.

        Raises:
            TextEncoderError: the sentence encoder cannot be loaded.
        """
        text = spec.recipe.text_encoder
        source = str(text.transformer if spec.folder is None else spec.folder / CONFIG_FILE)
        return cls(
            create_sentence_encoder(source, load=spec.load_pretrained),
            spec.recipe.dim,
            hidden=_HEAD_HIDDEN,
            feature_layers=text.feature_layers,
            dropout=text.dropout,
            num_heads=spec.recipe.num_heads,
        )

    def backbone_features(self, token_ids: Tensor) -> Tensor:
        """Return the unit vectors of the layers that are read, (batch, feature_dim)."""
        present = token_ids > 0
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            output = self.backbone(
                input_ids=(token_ids - 1).clamp(min=0),
                attention_mask=present.long(),
                output_hidden_states=True,
            )
            # An encoder may normalise the states of its last layer once more.
            states = (*output.hidden_states[:-1], output.last_hidden_state)
            summed = [(states[i] * present[..., None]).sum(dim=1) for i in self.feature_layers]
            return torch.cat([F.normalize(one) for one in summed], dim=1)

    def feature_key(self) -> str:
        digest = digest_weights(self.backbone, size=_KEY_BYTES)
        digest.update(repr(self.feature_layers).encode())
        return digest.hexdigest()

    @property
    def num_embeddings(self) -> int:
        return int(self.backbone.config.vocab_size) + 1

    def config_files(self) -> dict[str, str]:
        return {CONFIG_FILE: self.backbone.config.to_json_string()}


def create_sentence_encoder(source: str, *, load: bool) -> Any:
    """Create a ``transformers`` encoder.

    Args:
        source: its name on the Hugging Face hub, or a folder; a configuration file is enough
            without weights.
        load: load its pretrained weights.

    Raises:
        TextEncoderError: transformers is not installed, or the encoder cannot be loaded.
    """
    try:
        from transformers import AutoConfig, AutoModel
        from transformers.utils import logging
    except ImportError as error:
        raise TextEncoderError(
            "a sentence encoder needs transformers: pip install 'dualpath[transformers]'"
        ) from error
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # it counts tensors
    try:
        if load:
            return AutoModel.from_pretrained(source)
        create: Callable[[Any], Any] = AutoModel.from_config
        return create(AutoConfig.from_pretrained(source))
    except (OSError, ValueError, KeyError) as error:
        raise TextEncoderError(
            f"{source}: the sentence encoder cannot be loaded ({error_reason(error)}); give a "
            "folder with config.json, tokenizer.json and model.safetensors"
        ) from error


def sentence_tokenizer_file(source: str) -> Path:
    """Return the ``tokenizer.json`` of a sentence encoder, from its folder or from the hub.

    Raises:
        TextEncoderError: it cannot be downloaded.
    """
    local = Path(source) / "tokenizer.json"
    if local.is_file():
        return local
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source, "tokenizer.json"))
    except Exception as error:  # the hub client raises errors of its dependencies
        raise TextEncoderError(
            f"{source}: tokenizer.json cannot be downloaded ({error_reason(error)})"
        ) from error
