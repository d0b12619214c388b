"""Tables for the terminal."""

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from dualpath.evaluation.protocols import EvaluationResult
    from dualpath.training.dry_run import StagePlan

_GIB = 2**30


def metrics_table(result: "EvaluationResult") -> Table:
    """Lay out the result of an evaluation."""
    title = (
        f"{result.images:,} images, {result.captions:,} captions · split {result.split or '?'} · "
        f"protocol {result.protocol}"
        + (f" · re-ranked by {result.query_bank}" if result.query_bank else "")
        + (f" · rsum {result.rsum:.1f}" if result.rsum is not None else "")
    )
    directions = {"image → text": result.image_to_text, "text → image": result.text_to_image}
    measured = [(label, metrics) for label, metrics in directions.items() if metrics is not None]
    trapezoidal = [
        f"{label} {metrics.map_trapezoidal:.1f}"
        for label, metrics in measured
        if metrics.map_trapezoidal is not None
    ]
    caption = f"mAP by the trapezoidal rule: {', '.join(trapezoidal)}" if trapezoidal else None
    table = Table(title=title, caption=caption)
    recalls = ("R@1", "R@5", "R@10", "median rank", "mean rank")
    for column in ("direction", *recalls, "mAP", "mINP"):
        table.add_column(column, justify="left" if column == "direction" else "right")
    for label, metrics in measured:
        table.add_row(
            label,
            f"{metrics.recall_at_1:.1f}",
            f"{metrics.recall_at_5:.1f}",
            f"{metrics.recall_at_10:.1f}",
            f"{metrics.median_rank:g}",
            f"{metrics.mean_rank:.1f}",
            f"{metrics.map:.1f}",
            f"{metrics.minp:.1f}",
        )
    return table


def stage_table(stage: "StagePlan") -> Table:
    """Lay out the parameter groups and the memory of a stage of a dry run."""
    sizes = ", ".join(
        f"{name} {getattr(stage, name) / _GIB:.2f}"
        for name in ("weights", "gradients", "optimizer", "activations")
    )
    table = Table(title=f"{stage.name}: {stage.memory / _GIB:.2f} GiB", caption=f"GiB: {sizes}")
    for column in ("group", "parameters", "learning rate", "weight decay"):
        table.add_column(column, justify="left" if column == "group" else "right")
    for group in stage.groups:
        rate = f"{group.lr:g}" if group.lr else "frozen"
        table.add_row(group.name, f"{group.parameters:,}", rate, f"{group.weight_decay:g}")
    return table
