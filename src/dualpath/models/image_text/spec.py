"""The architecture of a pretrained image-text model, as a bundle stores it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dualpath.errors import TextEncoderError

SPEC_FILE = "image_text_model.json"  # in a bundle
Library = Literal["transformers", "open_clip"]


@dataclass(frozen=True)
class ImageTextSpec:
    """What the towers are built from, and how token ids become the input of the text tower.

    Attributes:
        library: whose code the towers are.
        source: name of the model.
        config: of the library.
        image_parts: names of the modules and parameters of the model that embed images.
        text_parts: of those that embed texts.
        padding_id: of the tokenizer.
        context_length: most tokens of a text.
        pad_to_context: texts are padded to ``context_length``, since the model attends to padding.
            If false, padding changes nothing.
        pad_left: padding comes before the tokens.
        attention_mask: the model gets a mask of the tokens that are not padding.
        text_config: configuration of a text tower of transformers inside a model of open_clip.
    """

    library: Library
    source: str
    config: dict[str, Any]
    image_parts: tuple[str, ...]
    text_parts: tuple[str, ...]
    padding_id: int
    context_length: int
    pad_to_context: bool
    pad_left: bool = False
    attention_mask: bool = False
    text_config: dict[str, Any] | None = None

    def to_json(self) -> str:
        """Return the content of :data:`SPEC_FILE`."""
        return json.dumps(asdict(self), indent=2, default=str) + "\n"


def read_spec(folder: Path) -> ImageTextSpec:
    """Read :data:`SPEC_FILE` of a bundle.

    Raises:
        TextEncoderError: it is missing or damaged.
    """
    path = folder / SPEC_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        parts = {name: tuple(values[name]) for name in ("image_parts", "text_parts")}
        return ImageTextSpec(**{**values, **parts})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TextEncoderError(f"{path}: missing or damaged; copy the bundle again") from error
