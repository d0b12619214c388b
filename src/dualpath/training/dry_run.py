"""What a recipe needs, without its data: parameter groups, learning rates and memory."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from dualpath.errors import RecipeError
from dualpath.losses.instance import InstanceClassifier
from dualpath.models.backbones import resolve_recipe
from dualpath.models.dual_encoder import DualEncoder, build_network
from dualpath.recipes.schema import ExpectedRecipe, Recipe, ResolvedRecipe
from dualpath.recipes.stages import StageRecipe
from dualpath.training.optim import build_classifier, build_optimizers, freeze, parameter_groups

_FEW, _MORE = 2, 4  # images of two batches; the difference is the memory per image
_WORDS = 12  # of a typical caption


@dataclass(frozen=True)
class GroupPlan:
    """A parameter group in a stage.

    Attributes:
        parameters: number of parameters.
        lr: learning rate; 0 if the group is frozen.
    """

    name: str
    parameters: int
    lr: float
    weight_decay: float


@dataclass(frozen=True)
class StagePlan:
    """A stage: its parameter groups, and its memory in bytes.

    Attributes:
        activations: stored for the backward pass of a batch, extrapolated from two small batches.
    """

    name: str
    groups: list[GroupPlan]
    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def memory(self) -> int:
        """All of these bytes, without the libraries and the data."""
        return self.weights + self.gradients + self.optimizer + self.activations


class _Training(NamedTuple):
    recipe: ResolvedRecipe
    expected: ExpectedRecipe
    network: DualEncoder
    classifier: InstanceClassifier


def dry_run(recipe: Recipe) -> list[StagePlan]:
    """Build the networks of a recipe with random weights, and return what each stage needs.

    Sizes of the data are those of the recipe's ``expected``.

    Raises:
        RecipeError: the recipe has no ``expected``.
        BackboneError, TextEncoderError: an encoder cannot be built.
    """
    expected = recipe.expected
    if expected is None:
        raise RecipeError(
            f"recipe {recipe.name}: a dry run needs the sizes of the data; add "
            "--set expected.words=N --set expected.images=N --set expected.instances=N"
        )
    resolved = resolve_recipe(recipe)
    special = 1 if resolved.text_encoder.vocabulary == "paper" else 2  # padding and [UNK]
    network = build_network(resolved, expected.words + special)
    class_of = torch.arange(resolved.classifier.clusters or expected.instances)
    with torch.device("meta"):  # only its size is needed, and it may be the largest part
        classifier = build_classifier(resolved, class_of)
    training = _Training(resolved, expected, network, classifier)
    return [_plan(stage, training) for stage in resolved.stages]


def _plan(stage: StageRecipe, training: _Training) -> StagePlan:
    network, classifier = training.network, training.classifier
    freeze(network, stage)
    network.train()
    groups = parameter_groups(network, classifier, stage.optimizer.rates)
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
    parameters = [p for group in groups.values() for p in group]
    gradients = sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)
    moments = {"adamw": 2, "sgd": 1 if stage.optimizer.momentum else 0}[stage.optimizer.name]
    few, more = (_activations(training, stage, images) for images in (_FEW, _MORE))
    per_image = (more - few) // (_MORE - _FEW)
    rows = stage.batch_size * (1 + stage.captions_per_image)
    logits = rows * training.expected.instances * 4 * 2  # float32, and as much for the gradient
    return StagePlan(
        stage.name,
        plans,
        weights=sum(p.numel() * p.element_size() for p in parameters),
        gradients=gradients,
        optimizer=moments * gradients,
        activations=stage.batch_size * per_image + (logits if stage.instance else 0),
    )


def _activations(training: _Training, stage: StageRecipe, images: int) -> int:
    """Return the bytes that autograd keeps for a batch of random images and captions."""
    network, recipe = training.network, training.recipe
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    stored: dict[int, int] = {}

    def record(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            stored[storage.data_ptr()] = storage.nbytes()
        return tensor

    size, text = recipe.image_encoder.input_size, recipe.text_encoder
    encoder = network.text_encoder
    captions, words = images * stage.captions_per_image, min(_WORDS, text.max_words)
    token_ids = torch.randint(1, encoder.num_embeddings, (captions, words))
    token_ids = encoder.augment_tokens(
        token_ids, word_dropout=text.word_dropout, position_shift=text.position_shift
    )
    pixels = torch.zeros(images, 3, size, size, dtype=torch.uint8)
    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        outputs = network(pixels, token_ids)
    del outputs
    return sum(stored.values())
