"""Several processes that train one model: how they meet, agree and lose each other."""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from timm.layers import convert_sync_batchnorm

from dualpath.embedding import DualPath
from dualpath.models.dual_path import DualPathNetwork
from dualpath.models.text_transformer import TextTransformer
from dualpath.processes import max_over_processes, processes, rank
from dualpath.recipe import StageRecipe

# What gloo and NCCL say when another process does not answer any more.
_LOST = ("onnection closed", "onnection reset", "by peer", "roken pipe", "imed out", "NCCL")


class TrainingError(RuntimeError):
    """A training that cannot go on; the message names where and what to do."""


def meet_processes() -> PartialState:
    """Return the state of the processes that were launched together; the first call joins them."""
    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    return PartialState(cpu=not has_gpu)  # unless it is told so, CPUs train each for itself


def accelerator_for(model: DualPath, folder: Path) -> Accelerator:
    """Return what spreads a training over devices and processes and logs it under ``folder``."""
    meet_processes()
    # Accelerate keeps the precision of an earlier training of this process, which may differ.
    AcceleratorState._reset_state()
    # A sentence encoder's pooler, and layers after the last state that is read, have no gradient.
    unused = isinstance(model.network.text_encoder, TextTransformer)
    return Accelerator(
        mixed_precision=model.recipe.mixed_precision,
        log_with="tensorboard",
        project_dir=folder,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=unused)],
    )


def any_process(*flags: bool) -> list[bool]:
    """Return for each flag whether it is set in any process; all of them call it together."""
    if processes() == 1:
        return list(flags)
    told = torch.tensor(flags, dtype=torch.int32, device=meet_processes().device)
    return [bool(flag) for flag in max_over_processes(told)]


def lost_process(error: RuntimeError) -> TrainingError | None:
    """Return what to tell people where the error is that another process was lost."""
    if processes() == 1 or not any(sign in str(error) for sign in _LOST):
        return None
    return TrainingError(
        f"process {rank()} of {processes()} lost another one; see what that one printed, and start "
        "all of them again with --resume"
    )


def share_batch_statistics(network: DualPathNetwork, stage: StageRecipe) -> None:
    """Let a backbone that uses the statistics of its batch see those of all processes.

    Raises:
        TrainingError: there are no GPUs, which torch needs for it.
    """
    if stage.backbone not in ("trained", "frozen_batch_norm"):
        return
    if meet_processes().device.type != "cuda":
        raise TrainingError(
            f"stage {stage.name}: batch statistics of a backbone are shared between processes on "
            f"GPUs alone; set backbone: trained_running_norm instead of {stage.backbone}"
        )
    encoder: Any = network.image_encoder
    encoder.backbone = convert_sync_batchnorm(encoder.backbone)
