"""Measure whole trainings: the default recipe at the size of Flickr8k, and the demo."""

import time
from pathlib import Path

from setting import Setting, set_precision
from watching import Watch, train_watched

from dualpath.evaluation.evaluate import evaluate
from dualpath.recipes.schema import ResolvedRecipe


def measure_end_to_end(setting: Setting) -> None:
    """Train the default recipe on cached features, and the demo's recipe from scratch.

    The backbone of the default recipe has random weights here, so its recalls mean nothing.
    """
    set_precision("tf32")
    for name, data in (("default", setting.photographs), ("shapes", setting.scenes)):
        recipe = setting.recipe(name)
        if setting.small:
            recipe = _shortened(recipe)
        _measure(setting, recipe, data)


def _shortened(recipe: ResolvedRecipe) -> ResolvedRecipe:
    changes = {"epochs": 1, "batch_size": 8, "validate_every": 1}
    stages = tuple(stage.model_copy(update=changes) for stage in recipe.stages)
    return recipe.model_copy(update={"stages": stages, "reference_size": None})


def _measure(setting: Setting, recipe: ResolvedRecipe, data: Path) -> None:
    watch = Watch(setting)
    setting.reset_peak()
    started = time.perf_counter()
    model = train_watched(recipe, data, setting.scratch / f"end-{recipe.name}", watch)
    seconds = time.perf_counter() - started
    for stage in recipe.stages:
        epochs = [epoch for epoch in watch.epochs if epoch.stage == stage.name]
        setting.add_row(
            {
                "recipe": recipe.name,
                "stage": stage.name,
                "epochs": len(epochs),
                "steps": sum(epoch.steps for epoch in epochs),
                "seconds": watch.stage_seconds(stage.name),
            }
        )
    result = evaluate(model, data, cache=setting.scratch / "cache")
    recalls = {"image to text": result.image_to_text, "text to image": result.text_to_image}
    setting.add_row(
        {
            "recipe": recipe.name,
            "training seconds": seconds,
            "checking images s": watch.bar_seconds.get("checking images", 0.0),
            "cached features s": watch.bar_seconds.get("backbone features", 0.0),
            **{f"test R@1 {name}": m.recall_at_1 for name, m in recalls.items() if m is not None},
            "test rsum": result.rsum,
            "peak GiB": setting.peak_gib(),
        }
    )
