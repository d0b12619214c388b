"""A pretrained sentence encoder as the text path: any Hugging Face encoder, and the head of images.

The encoder's last states are averaged over the tokens and normalised, which is how sentence
encoders are trained to be read (Reimers and Gurevych, "Sentence-BERT", 2019). Earlier states, read
in the same way, still tell the words apart that the last ones have summed up.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualpath.models.layers import head

SentenceMode = Literal["trained", "frozen"]


class SentenceEncoderError(ValueError):
    """A sentence encoder that cannot be had; the message names the mend."""


class TextTransformer(nn.Module):
    """Embed sentences: pretrained encoder, mean over tokens, linear, BN, ReLU, linear, BN.

    Args:
        backbone: a ``transformers`` encoder; its configuration tells the width of its states.
        dim: width of the output.
        hidden: width between the two layers of the head.
        states: after which layers the head reads, side by side; 0: the embedded tokens, -1: the
            last layer.
        dropout: of the head's hidden layer.
        parts: of the output, each with a head of its own.

    Raises:
        SentenceEncoderError: the encoder has no such layer.
    """

    def __init__(
        self,
        backbone: Any,
        dim: int,
        *,
        hidden: int,
        states: Sequence[int] = (-1,),
        dropout: float = 0.0,
        parts: int = 1,
    ) -> None:
        super().__init__()
        layers = int(backbone.config.num_hidden_layers)
        absent = [state for state in states if not -layers - 1 <= state <= layers]
        if absent:
            raise SentenceEncoderError(
                f"text_encoder.states: {absent[0]} is no layer of this sentence encoder, which has "
                f"{layers}; 0 is its embedded tokens, {layers} or -1 its last"
            )
        self.backbone = backbone
        self.states = tuple(range(layers + 1)[state] for state in states)
        self.backbone_dim = len(states) * int(backbone.config.hidden_size)
        self.head = head(self.backbone_dim, hidden, dim, dropout=dropout, parts=parts)
        self._mode: SentenceMode = "trained"

    def forward(self, token_ids: Tensor) -> Tensor:
        """Embed tokens, (batch, positions) int64, or kept features, (batch, backbone_dim) float.

        Token ids are those of the encoder's vocabulary plus one; 0 is no token.

        Returns:
            (batch, dim) features before the last ReLU.
        """
        kept = token_ids.is_floating_point()
        embedded: Tensor = self.head(token_ids if kept else self.backbone_features(token_ids))
        return embedded

    def backbone_features(self, token_ids: Tensor) -> Tensor:
        """Return the unit sentence vectors of each state, side by side, (batch, backbone_dim)."""
        present = token_ids > 0
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._mode == "trained"):
            seen = self.backbone(
                input_ids=(token_ids - 1).clamp(min=0),
                attention_mask=present.long(),
                output_hidden_states=True,
            )
            # After its last layer an encoder may normalise once more.
            of_layers = (*seen.hidden_states[:-1], seen.last_hidden_state)
            summed = [(of_layers[i] * present[..., None]).sum(dim=1) for i in self.states]
            return torch.cat([F.normalize(one) for one in summed], dim=1)

    def set_backbone(self, mode: SentenceMode) -> None:
        """Train the sentence encoder or freeze it."""
        self._mode = mode
        self.backbone.requires_grad_(mode == "trained")
        self.train(self.training)

    def train(self, mode: bool = True) -> "TextTransformer":
        """Set training mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self._mode == "frozen":
            self.backbone.eval()
        return self


def create_sentence_encoder(source: str, *, load: bool) -> Any:
    """Create a ``transformers`` encoder.

    Args:
        source: its name on the hub, or a folder; without weights, a configuration file will do.
        load: with its pretrained weights.

    Raises:
        SentenceEncoderError: transformers is not installed, or there is no such encoder.
    """
    try:
        from transformers import AutoConfig, AutoModel
        from transformers.utils import logging
    except ImportError as error:
        raise SentenceEncoderError(
            "a sentence encoder needs a library: pip install 'dualpath[transformers]'"
        ) from error
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # a bar over a hundred tensors tells nobody anything
    try:
        if load:
            return AutoModel.from_pretrained(source)
        create: Callable[[Any], Any] = AutoModel.from_config
        return create(AutoConfig.from_pretrained(source))
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SentenceEncoderError(
            f"{source}: no sentence encoder could be loaded ({reason}); give a folder with "
            "config.json, tokenizer.json and model.safetensors"
        ) from error


def sentence_tokenizer_file(source: str) -> Path:
    """Return the ``tokenizer.json`` of an encoder, fetched from the hub where it is no folder."""
    local = Path(source) / "tokenizer.json"
    if local.is_file():
        return local
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source, "tokenizer.json"))
    except Exception as error:  # the hub raises whatever its layers below raise
        reason = " ".join(str(error).split())[:150]
        raise SentenceEncoderError(
            f"{source}: its tokenizer.json is not to be had ({reason})"
        ) from error
