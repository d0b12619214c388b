"""What a checkpoint holds, whole, whoever held which part of it.

The classifier is spread over the processes that train; a checkpoint is not, so that a training can
go on with more processes or fewer.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from dualpath.losses.instance import InstanceClassifier
from dualpath.training.stages import Optimizers


def gather_weights(network: nn.Module, classifier: InstanceClassifier) -> dict[str, Any]:
    """Return the weights of both; all processes call it together."""
    own = classifier.state_dict()
    for name in classifier.row_names():
        own[name] = classifier.gathered_rows(own[name])
    return {"network": network.state_dict(), "classifier": own}


def load_weights(state: dict[str, Any], network: nn.Module, classifier: InstanceClassifier) -> None:
    """Load what :func:`gather_weights` gave."""
    network.load_state_dict(state["network"])
    own = dict(state["classifier"])
    for name in classifier.row_names():
        own[name] = classifier.own_rows(own[name])
    classifier.load_state_dict(own)


def gather_optimizers(
    optimizers: Optimizers, classifier: InstanceClassifier
) -> list[dict[str, Any]]:
    """Return the states of both optimisers; all processes call it together."""
    network, rows = (optimizer.state_dict() for optimizer in optimizers)
    return [network, _map_rows(rows, classifier.gathered_rows)]


def load_optimizers(
    optimizers: Optimizers, states: list[dict[str, Any]], classifier: InstanceClassifier
) -> None:
    """Load what :func:`gather_optimizers` gave."""
    network, rows = states
    optimizers.network.load_state_dict(network)
    optimizers.classifier.load_state_dict(_map_rows(rows, classifier.own_rows))


def _map_rows(state: dict[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Change what an optimiser keeps for each row of the classifier."""
    kept = {
        number: {name: change(v) if _is_rows(v) else v for name, v in entries.items()}
        for number, entries in state["state"].items()
    }
    return {**state, "state": kept}


def _is_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2
