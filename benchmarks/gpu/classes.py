"""Measure a step of the instance loss over a million classes, and its memory."""

from collections.abc import Callable

import torch
from setting import Setting, seconds_of, set_precision
from torch import Tensor

from dualpath.losses.instance import InstanceClassifier

IMAGES, CAPTIONS, DIM = 64, 128, 512


def measure_classes(setting: Setting) -> None:
    """Measure steps with all classes and with a tenth of them (Partial FC), optimiser included."""
    classes = 2_000 if setting.small else 1_000_000
    for sample_rate in (1.0, 0.1):
        for precision in setting.precisions:
            set_precision(precision)
            setting.reset_peak()
            step = _step(setting, classes, sample_rate, bf16=precision == "bf16")
            seconds = seconds_of(setting, step, calls=5)
            setting.add_row(
                {
                    "classes": classes,
                    "sample rate": sample_rate,
                    "precision": precision,
                    "ms a step": 1000 * seconds,
                    "peak GiB": setting.peak_gib(),
                }
            )
            del step


def _step(setting: Setting, classes: int, sample_rate: float, *, bf16: bool) -> Callable[[], None]:
    device = setting.device
    torch.manual_seed(0)
    with device:  # the weights are drawn on the device
        classifier = InstanceClassifier(DIM, torch.arange(classes), sample_rate=sample_rate)
        images = torch.randn(IMAGES, DIM, requires_grad=True)
        texts = torch.randn(CAPTIONS, DIM, requires_grad=True)
        ids: Tensor = torch.randint(classes, (IMAGES,))
    weights = classifier.weights()
    optimizer: torch.optim.Optimizer
    if sample_rate < 1:
        optimizer = torch.optim.SparseAdam(weights, lr=1e-3)
    else:
        optimizer = torch.optim.AdamW(weights, lr=1e-3, fused=True)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            losses = classifier(images, texts, ids, ids.repeat(2), logit_scale=16.0)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        optimizer.step()

    return step
