"""The accelerator of a training: devices, mixed precision, processes and logs."""

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from timm.layers import convert_sync_batchnorm as timm_convert_sync_batchnorm

from dualpath.distributed.process_group import init_distributed
from dualpath.errors import TrainingError
from dualpath.inference.model import DualPath
from dualpath.models.dual_encoder import DualEncoder
from dualpath.recipes.stages import StageRecipe


def create_accelerator(model: DualPath, folder: Path) -> Accelerator:
    """Return the accelerator of a training, which logs to TensorBoard files in ``folder``."""
    if init_distributed().device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True  # as cuDNN does for convolutions by default
    # Accelerate would keep the precision of an earlier training in this process.
    AcceleratorState._reset_state()
    unused = model.network.text_encoder.has_unused_parameters
    return Accelerator(
        mixed_precision=model.recipe.mixed_precision,
        log_with="tensorboard",
        project_dir=folder,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=unused)],
    )


def convert_sync_batchnorm(network: DualEncoder, stage: StageRecipe) -> None:
    """Let a backbone that uses batch statistics compute them over all processes.

    Raises:
        TrainingError: there are no GPUs, which torch needs for it.
    """
    if stage.backbone not in ("trained", "frozen_batch_norm"):
        return
    if init_distributed().device.type != "cuda":
        raise TrainingError(
            f"stage {stage.name}: torch shares batch statistics of a backbone between processes on "
            f"GPUs alone; set backbone: trained_running_norm instead of {stage.backbone}"
        )
    encoder = network.image_encoder
    encoder.backbone = timm_convert_sync_batchnorm(encoder.backbone)
