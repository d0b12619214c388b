"""A network of the paper's recipe with the weights of the formulas, and the golden numbers."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from dualpath.losses.instance import InstanceClassifier
from dualpath.models.backbones import resolve_recipe
from dualpath.models.dual_encoder import DualEncoder, build_network
from dualpath.models.text import cnn
from dualpath.recipes.loading import read_recipe
from dualpath.recipes.schema import ResolvedRecipe
from dualpath.recipes.stages import StageRecipe
from dualpath.training.optim import Optimizers, build_optimizers, freeze, set_learning_rate
from tests.fidelity.formulas import Inputs, inputs, parameter

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))
RECIPES = {"flickr30k_32": "flickr30k", "cuhk_56": "cuhk_pedes"}
_STRIDE = 7919 * 131
TOLERANCE = 1e-9  # golden numbers have 12 digits
ZERO = 1e-9

largest_differences: dict[str, float] = {}


def assert_golden(subject: str, golden: Any, found: Any) -> None:
    """Compare an array, or a number, with the authors'; remember the largest difference.

    Args:
        subject: the row of the table of differences.
    """
    if not isinstance(golden, dict):
        return _compare(subject, np.asarray(found), np.asarray(golden), abs(golden))
    array = found.detach().numpy() if isinstance(found, Tensor) else np.asarray(found)
    assert list(array.shape) == golden["shape"]
    if golden["abs_sum"] < ZERO:  # 0 by construction; only rounding errors are left
        assert float(np.abs(array).sum()) < ZERO, subject
        return None
    flat, values = array.ravel(), np.array(golden["values"])
    places = np.arange(len(values), dtype=np.int64) * _STRIDE % flat.size
    _compare(subject, flat[places], values, float(np.abs(values).max()))
    for total, name in ((flat.sum(), "sum"), (np.abs(flat).sum(), "abs_sum")):
        _compare(subject, total, golden[name], golden["abs_sum"])
    return None


def _compare(subject: str, found: Any, golden: Any, scale: float) -> None:
    difference = float(np.max(np.abs(found - golden))) / scale
    largest_differences[subject] = max(largest_differences.get(subject, 0.0), difference)
    assert difference < TOLERANCE, subject


@dataclass
class Case:
    """A recipe of the paper, with network and classifier in double precision.

    Attributes:
        golden: the numbers of the authors' code.
    """

    golden: dict[str, Any]
    recipe: ResolvedRecipe
    network: DualEncoder
    classifier: InstanceClassifier

    def inputs(self, number: int) -> Inputs:
        sizes = (self.golden[name] for name in ("max_words", "vocabulary", "classes"))
        return inputs(number, *sizes)

    def placed(self, batch: Inputs) -> Tensor:
        text_encoder: Any = self.network.text_encoder
        placed: Tensor = text_encoder.place(batch.token_ids, batch.starts)
        return placed

    def start(self) -> None:
        """Set all weights and statistics to those of the formulas."""
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                if ".backbone." in name:
                    continue
                if name.endswith("num_batches_tracked"):
                    value.fill_(10_000)  # the averages have forgotten their start
                else:
                    value.copy_(parameter(name, tuple(value.shape)))
            shape = tuple(self.classifier.weight.shape)
            self.classifier.weight.copy_(parameter("classifier.weight", shape))

    def optimizers(self, stage: StageRecipe) -> Optimizers:
        freeze(self.network, stage)
        optimizers = build_optimizers(stage.optimizer, self.network, self.classifier)
        set_learning_rate(optimizers, 1.0)
        return optimizers

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters of everything but the backbone, by name."""
        named = {n: p for n, p in self.network.named_parameters() if ".backbone." not in n}
        return {**named, "classifier.weight": self.classifier.weight}


@cache
def load_case(name: str) -> Case:
    """Build a case; both tests and stages share it and call :meth:`Case.start`."""
    golden = GOLDEN["cases"][name]
    # The authors' bias of the classifier was held at zero.
    recipe = resolve_recipe(read_recipe(RECIPES[name], ["classifier.bias=false"]))
    network = build_network(recipe, golden["vocabulary"] + 1).double()
    classifier = InstanceClassifier(recipe.dim, torch.arange(golden["classes"])).double()
    case = Case(golden, recipe, network, classifier)
    case.start()
    return case


def without_padding(name: str, value: Tensor) -> Tensor:
    """Return a parameter, or its gradient, as the authors' code has it: without word 0."""
    return value[1:] if name.endswith("embedding.weight") else value


@contextmanager
def dropout_mask(mask: Tensor) -> Iterator[None]:
    """Let dropout multiply by a mask instead of drawing one."""

    def masked(features: Tensor, rate: float, training: bool) -> Tensor:
        assert training
        assert rate == 1 - 1 / float(mask.max())
        return features * mask

    with patch("torch.nn.functional.dropout", masked):
        yield


class Positions:
    """Records the outputs of the text encoder's layers as (batch, position, channel).

    The encoder works on packed rows. The functions that number them are observed, to find the row
    of each position.
    """

    def __init__(self, encoder: nn.Module) -> None:
        self._encoder: Any = encoder
        self._rows = torch.empty(0)
        self.blocks: list[Tensor] = []
        self.embedded = self.pooled = torch.empty(0)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        encoder = self._encoder
        hooks = [
            encoder.embedding_norm.register_forward_hook(self._keep_embedded),
            encoder.project.register_forward_pre_hook(self._keep_pooled),
            *(block.register_forward_hook(self._keep_block) for block in encoder.blocks),
        ]
        observed = {
            name: self._observe(getattr(cnn, name), place)
            for name, place in (("share_rows", 1), ("number_rows", None), ("convolution_rows", 0))
        }
        try:
            with patch.multiple(cnn, **observed):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _observe(self, function: Callable[..., Any], place: int | None) -> Callable[..., Any]:
        def observed(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options)
            self._rows = result if place is None else result[place]
            return result

        return observed

    def _unpacked(self, output: Tensor) -> Tensor:
        return output.detach()[self._rows - 1]

    def _keep_embedded(self, _: nn.Module, __: Any, output: Tensor) -> None:
        # Hooks run before the rows of the first block are numbered.
        self.embedded = self._unpacked(output)

    def _keep_pooled(self, _: nn.Module, arguments: tuple[Tensor]) -> None:
        self.pooled = arguments[0].detach()

    def _keep_block(self, _: nn.Module, __: Any, output: Tensor) -> None:
        self.blocks.append(self._unpacked(output))
