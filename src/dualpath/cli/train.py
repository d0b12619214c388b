"""``dualpath train`` and ``dualpath recipes``."""

from pathlib import Path
from typing import Annotated

import typer

from dualpath.cli.console import Cache, SkipBroken, existing_folder, handle_errors, out_console
from dualpath.cli.tables import metrics_table, stage_table


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe file (YAML), or the name of a shipped recipe (see: dualpath recipes)."
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of captioned images with a manifest.",
            callback=existing_folder,
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write the model to.", file_okay=False, show_default=False),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override a key of the recipe, as in stages.0.epochs=3. May be repeated.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the training that was started in OUT.")
    ] = False,
    skip_broken: SkipBroken = False,
    keep_checkpoints: Annotated[
        bool,
        typer.Option(
            "--keep-checkpoints", help="Do not delete the checkpoints of the complete training."
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Build the networks without data; print parameter groups, learning rates and "
            "memory.",
        ),
    ] = False,
    cache: Cache = None,
) -> None:
    """Train a model on a folder of captioned images.

    Example: dualpath train default --data photos --out model
    """
    with handle_errors():
        from dualpath.recipes.loading import read_recipe

        parsed = read_recipe(recipe, set_ or [])
    if dry_run:
        with handle_errors():
            from dualpath.training.dry_run import dry_run as plan

            for stage in plan(parsed):
                out_console.print(stage_table(stage))
        return
    if data is None or out is None:
        raise typer.BadParameter("a training needs --data and --out")
    from dualpath.utils.signals import sigterm_as_interrupt

    with handle_errors("; continue with --resume"), sigterm_as_interrupt():
        from dualpath.distributed.process_group import init_distributed
        from dualpath.evaluation.protocols import EvaluationResult
        from dualpath.training.train import train as run

        model = run(
            parsed,
            data,
            out,
            resume=resume,
            skip_broken=skip_broken,
            keep_checkpoints=keep_checkpoints,
            cache=cache,
        )
        if not init_distributed().is_main_process:
            return
        if model.metrics["validation"]:
            result = EvaluationResult.from_dict(model.metrics["validation"])
            out_console.print(metrics_table(result))
        out_console.print(f"bundle: {out}", markup=False)


def recipes() -> None:
    """List the recipes that ship with the package, for: dualpath train NAME."""
    with handle_errors():
        from dualpath.recipes.loading import read_recipe, shipped_recipes

        for name in shipped_recipes():
            out_console.print(
                f"{name:22} {read_recipe(name).description}", markup=False, highlight=False
            )
