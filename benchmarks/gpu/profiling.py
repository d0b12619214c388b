"""Profile some steps of a training, and find where the host waits for the device."""

import time
import warnings
from collections import Counter
from typing import Any

import torch
from setting import ROOT, Setting
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

# Calls of the CUDA runtime and operators of torch that are counted, as they may make the host wait.
_COUNTED = (
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
    "cudaMemcpyAsync",
    "aten::item",
    "aten::_local_scalar_dense",
    "aten::nonzero",
)
_TOP = 12


class Profile:
    """Profiles ``steps`` steps of a stage, after the first ``after`` steps of an epoch."""

    def __init__(self, setting: Setting, stage: str, after: int, steps: int) -> None:
        self.stage, self._after, self._steps = stage, after, steps
        self._setting = setting
        self._profile: profile | None = None
        self._wall = 0.0

    def after_step(self, stage: str, step: int) -> None:
        """Start or stop after this step of an epoch."""
        if stage != self.stage:
            return
        if step == self._after and self._profile is None:
            activities = [ProfilerActivity.CPU]
            if self._setting.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._setting.synchronise()
            self._profile = profile(activities=activities)
            self._profile.__enter__()
            self._wall = time.perf_counter()
        elif step == self._after + self._steps and self._profile is not None:
            self._setting.synchronise()
            self._wall = time.perf_counter() - self._wall
            self._profile.__exit__(None, None, None)

    def summary(self) -> dict[str, Any]:
        """Return times and counts of one step."""
        if self._profile is None:
            return {"profile": "the stage had too few steps"}
        events = list(self._profile.events() or ())
        kernels = [event for event in events if _on_device(event)]
        counts = Counter(event.name for event in events)
        launches = sum(n for name, n in counts.items() if "LaunchKernel" in name)
        waited = sum(
            event.time_range.elapsed_us() for event in events if "Synchronize" in event.name
        )
        busy = _union_length([(event.time_range.start, event.time_range.end) for event in kernels])
        of_kernels: Counter[str] = Counter()
        for event in kernels:
            of_kernels[event.name] += event.time_range.elapsed_us()
        of_host = sorted(
            self._profile.key_averages(), key=lambda op: op.self_cpu_time_total, reverse=True
        )
        return {
            "wall ms": 1000 * self._wall / self._steps,
            "device busy ms": busy / 1000 / self._steps,
            "waiting ms": waited / 1000 / self._steps,
            "kernels": len(kernels) / self._steps,
            "launches": launches / self._steps,
            **{name: counts[name] / self._steps for name in _COUNTED},
            "longest kernels, ms": {
                name[:100]: total / 1000 / self._steps
                for name, total in of_kernels.most_common(_TOP)
            },
            "longest on the host, ms": {
                op.key: op.self_cpu_time_total / 1000 / self._steps for op in of_host[:_TOP]
            },
        }


def _on_device(event: Any) -> bool:
    annotation = getattr(event, "is_user_annotation", False)
    return event.device_type == DeviceType.CUDA and not annotation


def _union_length(spans: list[tuple[float, float]]) -> float:
    """Return the length of the union of spans."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


class Waits:
    """Counts by source line where the host waits for the device, in some steps of a stage."""

    def __init__(self, setting: Setting, stage: str, after: int, steps: int) -> None:
        self.stage, self._after, self._steps = stage, after, steps
        self._cuda = setting.device.type == "cuda"
        self._recorded: list[warnings.WarningMessage] = []
        self._recording: Any = None

    def after_step(self, stage: str, step: int) -> None:
        """Start or stop after this step of an epoch."""
        if stage != self.stage or not self._cuda:
            return
        if step == self._after and self._recording is None:
            self._recording = warnings.catch_warnings(record=True)
            self._recorded = self._recording.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        elif step == self._after + self._steps and self._recording is not None:
            torch.cuda.set_sync_debug_mode("default")
            self._recording.__exit__(None, None, None)

    def summary(self) -> dict[str, Any]:
        """Return how often a step waits at which line."""
        lines: Counter[str] = Counter()
        for warning in self._recorded:
            if "synchronizing" in str(warning.message):
                lines[f"{warning.filename.removeprefix(f'{ROOT}/')}:{warning.lineno}"] += 1
        counts = {line: count / self._steps for line, count in lines.most_common()}
        return {"waits": sum(counts.values()), "waits by line": counts}
