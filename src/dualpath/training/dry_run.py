"""What a recipe asks for, without its data: parameter groups, rates, memory."""

from dataclasses import dataclass
from typing import Any

import torch

from dualpath.losses.instance import InstanceClassifier
from dualpath.models.dual_path import build_network, complete_recipe
from dualpath.recipe import ExpectedRecipe, Recipe, StageRecipe
from dualpath.recipe_file import RecipeError
from dualpath.training.stages import (
    augment_words,
    build_classifier,
    build_optimizers,
    freeze,
    parameter_groups,
)

_MEASURED = (2, 4)  # pictures of the two batches whose difference is what a picture needs


@dataclass(frozen=True)
class GroupPlan:
    """A group of parameters in a stage; ``lr`` 0 and no decay: it is frozen."""

    name: str
    parameters: int
    lr: float
    weight_decay: float


@dataclass(frozen=True)
class StagePlan:
    """A stage: its groups, and its memory in bytes.

    ``activations`` is what backward needs of a batch, extrapolated from two small ones.
    """

    name: str
    groups: list[GroupPlan]
    weights: int
    gradients: int
    optimiser: int
    activations: int

    @property
    def memory(self) -> int:
        """All of it, without the libraries and the data."""
        return self.weights + self.gradients + self.optimiser + self.activations


def dry_run(recipe: Recipe) -> list[StagePlan]:
    """Build everything a recipe trains, with random weights, and tell what each stage needs.

    Sizes that depend on data are those the recipe expects.

    Raises:
        RecipeError: the recipe has no ``expected``.
        BackboneError: there is no such backbone.
    """
    expected = recipe.expected
    if expected is None:
        raise RecipeError(
            f"recipe {recipe.name}: a dry run needs the sizes of the data; add "
            "--set expected.words=N --set expected.pictures=N --set expected.instances=N"
        )
    recipe = complete_recipe(recipe)
    rows = expected.words + (1 if recipe.text_encoder.vocabulary == "paper" else 2)
    network = build_network(recipe, rows)
    class_of = torch.arange(recipe.classifier.clusters or expected.instances)
    with torch.device("meta"):  # only its size is needed, and it may be the largest part
        classifier = build_classifier(recipe, class_of)
    return [_plan(stage, recipe, network, classifier, expected) for stage in recipe.stages]


def _plan(
    stage: StageRecipe,
    recipe: Recipe,
    network: Any,
    classifier: InstanceClassifier,
    expected: ExpectedRecipe,
) -> StagePlan:
    freeze(network, stage)
    network.train()
    groups = parameter_groups(network, classifier)
    trained = build_optimizers(stage.optimizer, network, classifier).groups
    plans = []
    for name, parameters in groups.items():
        rates = [group for group in trained if group["name"] == name]
        plans.append(
            GroupPlan(
                name,
                sum(p.numel() for p in parameters),
                rates[0]["lr"] if rates else 0.0,
                rates[0].get("weight_decay", 0.0) if rates else 0.0,
            )
        )
    everything = [p for parameters in groups.values() for p in parameters]
    gradients = sum(p.numel() * p.element_size() for p in everything if p.requires_grad)
    moments = {"adamw": 2, "sgd": 1 if stage.optimizer.momentum else 0}[stage.optimizer.name]
    few, more = (_activations(network, recipe, n, stage) for n in _MEASURED)
    a_picture = (more - few) // (_MEASURED[1] - _MEASURED[0])
    logits = stage.batch_size * (1 + stage.captions_per_picture) * expected.instances * 4 * 2
    return StagePlan(
        stage.name,
        plans,
        weights=sum(p.numel() * p.element_size() for p in everything),
        gradients=gradients,
        optimiser=moments * gradients,
        activations=stage.batch_size * a_picture + (logits if stage.instance else 0),
    )


def _activations(network: Any, recipe: Recipe, pictures: int, stage: StageRecipe) -> int:
    """Return the bytes that the graph of a batch of random pictures and sentences keeps."""
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    size = recipe.image_encoder.input_size
    assert size is not None, "the recipe was completed"
    encoder = network.text_encoder
    sentences = pictures * stage.captions_per_picture
    words = min(12, recipe.text_encoder.max_words)
    token_ids = torch.randint(1, encoder.embedding.num_embeddings, (sentences, words))
    pixels = torch.zeros(pictures, 3, size, size, dtype=torch.uint8)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = network(pixels, augment_words(encoder, token_ids, recipe.text_encoder))
    del outputs
    return sum(kept.values())
