"""What a checkpoint holds of a training: what all processes have alike, and what each has alone."""

from pathlib import Path
from typing import Any

from torch import nn

from dualpath.losses.instance import InstanceClassifier
from dualpath.training.checkpoints import Progress, load_checkpoint, load_rows, save_checkpoint
from dualpath.training.stages import Optimizers


def save_training(
    path: Path,
    network: nn.Module,
    classifier: InstanceClassifier,
    optimizers: Optimizers | None,
    progress: Progress,
) -> None:
    """Write a checkpoint; all processes call it together."""
    shared = classifier.state_dict()
    rows: dict[str, Any] = {"weights": {name: shared.pop(name) for name in classifier.row_names()}}
    state = {"network": network.state_dict(), "classifier": shared}
    if optimizers is not None:
        state["optimizer"] = optimizers.network.state_dict()
        rows["optimizer"] = optimizers.classifier.state_dict()
    save_checkpoint(path, state, rows, progress)


def load_training(
    path: Path, network: nn.Module, classifier: InstanceClassifier
) -> tuple[Progress, list[dict[str, Any]] | None]:
    """Load the weights of both; return how far it was, and the states of the optimisers if kept."""
    state, progress = load_checkpoint(path)
    rows = load_rows([path.with_name(name) for name in state["rows"]], classifier.own)
    network.load_state_dict(state["network"])
    classifier.load_state_dict({**state["classifier"], **rows["weights"]})
    kept = "optimizer" in state
    return progress, [state["optimizer"], rows["optimizer"]] if kept else None
