"""The settings that ``ablations.py`` compares, and their recipes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dualpath.recipes.schema import Recipe

LEARNING_RATES = (1e-3, 3e-3, 9e-3)
BATCH_SIZE = 64

INSTANCE = {"instance": {"logit_scale": 16, "dropout": 0.2}}
HARDEST = {"ranking": {"margin": 0.2, "negatives": "hardest"}}
RANDOM = {"ranking": {"margin": 1.0, "negatives": "random"}}
BOTH = {**INSTANCE, **HARDEST}
# Stage II trains the whole network, at a twentieth of the learning rate, the backbone at less.
WHOLE_NETWORK = {
    "backbone": "trained_running_norm",
    "lr_divisor": 20,
    "optimizer": {"rates": {"image_backbone": 0.3}},
}

Stages = tuple[tuple[int, Mapping[str, Any]], ...]


@dataclass(frozen=True)
class Setting:
    """A row of the table.

    Attributes:
        group: of rows that are compared with each other.
        name: of the row.
        stages: epochs and keys of each stage; ``lr_divisor`` divides its learning rate.
        changes: other keys of the recipe.
        lr_from: name of the setting whose learning rate is used. None: the setting's own best one.
    """

    group: str
    name: str
    stages: Stages
    changes: Mapping[str, Any] = field(default_factory=dict)
    lr_from: str | None = None

    @property
    def key(self) -> str:
        """A name that no other row has."""
        return f"{self.group}: {self.name}"


@dataclass(frozen=True)
class Backbone:
    """The frozen backbone of all settings, and the word vectors.

    Attributes:
        name: a timm model name. weights: file of its weights.
        word_vectors: file in GloVe's format.
    """

    name: str
    weights: Path
    word_vectors: Path


def all_settings(epochs: int, stage_two_epochs: int) -> list[Setting]:
    """Return the rows of the table.

    Args:
        epochs: of every setting.
        stage_two_epochs: further epochs in the group about Stage II.
    """
    both: Stages = ((epochs, BOTH),)
    half = epochs // 2
    losses = "losses"
    stages = "stages (112 pixels)"
    small = {"image_encoder": {"input_size": 112}}
    stage_two = (stage_two_epochs, {**BOTH, **WHOLE_NETWORK})
    return [
        Setting(losses, "instance alone", ((epochs, INSTANCE),)),
        Setting(losses, "ranking alone, hardest of the batch", ((epochs, HARDEST),)),
        Setting(losses, "ranking alone, one at random", ((epochs, RANDOM),)),
        Setting(losses, "both losses", both),
        Setting(losses, "instance, then both", ((half, INSTANCE), (half, BOTH))),
        Setting(losses, "instance, then ranking", ((half, INSTANCE), (half, HARDEST))),
        Setting(stages, "Stage I", ((epochs + stage_two_epochs, BOTH),), small),
        Setting(stages, "Stage I, then II", (*both, stage_two), small),
        *_variants(epochs),
    ]


def _variants(epochs: int) -> list[Setting]:
    """Return the settings that change one key of "both losses" or of "instance alone"."""

    def of_both(group: str, name: str, **changes: Any) -> Setting:
        return Setting(group, name, ((epochs, BOTH),), changes, lr_from="both losses")

    def of_instance(group: str, name: str, **changes: Any) -> Setting:
        return Setting(group, name, ((epochs, INSTANCE),), changes, lr_from="instance alone")

    padding = "padding and position"
    separate = {"shared": False}
    return [
        of_both(padding, "unmasked, position shift", text_encoder={"padding": "unmasked"}),
        of_both(
            padding,
            "unmasked, left-aligned",
            text_encoder={"padding": "unmasked", "position_shift": False},
        ),
        of_both(padding, "masked, left-aligned", text_encoder={"position_shift": False}),
        of_both(
            "word vectors", "random", text_encoder={"word_vectors": None, "embedding_dim": 100}
        ),
        of_both("pooling", "mean", text_encoder={"pooling": "mean"}),
        *(
            of_instance(
                "classes (instance alone)",
                f"{count:,} k-means clusters",
                classifier={"clusters": count},
            )
            for count in (300, 1000, 3000)
        ),
        of_instance("classifier", "separate, instance alone", classifier=separate),
        of_both("classifier", "separate, both losses", classifier=separate),
    ]


def build_recipe(setting: Setting, lr: float, seed: int, backbone: Backbone) -> Recipe:
    """Return the recipe of a setting at a learning rate."""
    image_encoder = {"backbone": backbone.name, "weights": str(backbone.weights)}
    text_encoder = {
        "width": 0.125,
        "depths": (1, 1, 1, 1),
        "max_words": 24,
        "word_vectors": str(backbone.word_vectors),
    }
    changes = setting.changes
    return Recipe.model_validate(
        {
            "name": "ablation",
            "seed": seed,
            "dim": 256,
            "keep": "last",
            "workers": 0,
            "image_encoder": {**image_encoder, **changes.get("image_encoder", {})},
            "text_encoder": {**text_encoder, **changes.get("text_encoder", {})},
            "classifier": changes.get("classifier", {}),
            "stages": [
                _stage(f"stage-{number}", epochs, lr, **keys)
                for number, (epochs, keys) in enumerate(setting.stages, start=1)
            ],
        }
    )


def _stage(
    name: str,
    epochs: int,
    lr: float,
    *,
    lr_divisor: float = 1,
    optimizer: Mapping[str, Any] | None = None,
    **keys: Any,
) -> dict[str, Any]:
    return {
        "name": name,
        "epochs": epochs,
        "batch_size": BATCH_SIZE,
        "backbone": "frozen",
        "optimizer": {"lr": lr / lr_divisor, "weight_decay": 0.05, **(optimizer or {})},
        "schedule": {"warmup": 0.05, "decay": "cosine"},
        "validate_every": epochs,
        **keys,
    }
