"""Time and profile trainings of the paper's recipe on JPEG files and cached features."""

import statistics

from profiling import Profile, Waits
from setting import Setting, set_precision
from watching import Watch, train_watched


def measure_trainer(setting: Setting) -> None:
    """Train both stages of the paper's recipe in every precision, with small and large batches."""
    small, large = setting.batches
    for batch in (small, large):
        for precision in setting.precisions:
            set_precision(precision)
            watch = Watch(setting)
            setting.reset_peak()
            recipe = setting.paper(precision, batch)
            if batch == large:  # an epoch has few steps, so the first stage runs four
                first, second = recipe.stages
                stages = (first.model_copy(update={"epochs": 4, "validate_every": 4}), second)
                recipe = recipe.model_copy(update={"stages": stages})
            folder = setting.scratch / f"trainer-{precision}-{batch}"
            train_watched(recipe, setting.photographs, folder, watch)
            for stage in recipe.stages:
                _add_stage(setting, watch, stage.name, batch, precision)


def measure_profile(setting: Setting) -> None:
    """Profile some steps of both stages, and find where the host waits for the device."""
    # A multiple of the 20 steps whose losses the trainer reads together.
    first, steps = (2, 2) if setting.small else (20, 20)
    for precision in setting.precisions:
        set_precision(precision)
        recipe = setting.paper(precision, setting.batches[0])
        names = [stage.name for stage in recipe.stages]
        profiles = [Profile(setting, name, first, steps) for name in names]
        waits = [Waits(setting, name, first + 2 * steps, steps) for name in names]
        watch = Watch(setting, *profiles, *waits)
        folder = setting.scratch / f"profile-{precision}"
        train_watched(recipe, setting.photographs, folder, watch)
        for profile, waiting in zip(profiles, waits, strict=True):
            row = {"batch": setting.batches[0], "precision": precision}
            setting.add_row(
                {"stage": profile.stage, **row, **profile.summary(), **waiting.summary()}
            )


def _add_stage(setting: Setting, watch: Watch, stage: str, batch: int, precision: str) -> None:
    epochs = [epoch for epoch in watch.epochs if epoch.stage == stage]
    # In the first third of an epoch the loader starts, and its last batch may be smaller.
    steady = [s for epoch in epochs for s in epoch.step_seconds(skip=epoch.steps // 3)[:-1]]
    mean = statistics.mean(steady)
    steps = sum(epoch.steps for epoch in epochs)
    setting.add_row(
        {
            "stage": stage,
            "batch": batch,
            "precision": precision,
            "ms a step": 1000 * mean,
            "median ms": 1000 * statistics.median(steady),
            "images/s": batch / mean,
            "epoch images/s": batch * steps / watch.stage_seconds(stage),
            "cached features s": watch.bar_seconds.get("backbone features", 0.0),
            "peak GiB": setting.peak_gib(),
        }
    )
