"""``dualpath classify``: zero-shot classification of a folder of images or of a gallery."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dualpath.cli.console import (
    Cache,
    SkipBroken,
    bar,
    existing_folder,
    handle_errors,
    log,
    out_console,
    print_rows,
)
from dualpath.cli.gallery import open_gallery
from dualpath.cli.models import Bundle

if TYPE_CHECKING:
    from dualpath.evaluation.zero_shot import ZeroShotResult
    from dualpath.inference.zero_shot import ZeroShotClassifier


def classify(
    bundle: Bundle,
    source: Annotated[
        str,
        typer.Argument(
            metavar="IMAGES", help="Folder of images, or with --field a gallery to write into."
        ),
    ],
    labels: Annotated[
        Path,
        typer.Option(
            help="Text file with a label on each line. NAME=WORDS writes NAME and prompts WORDS.",
            exists=True,
            dir_okay=False,
        ),
    ],
    template: Annotated[
        list[str] | None,
        typer.Option(
            help="Prompt with {} for the label; several are averaged. imagenet: the seven "
            "templates of OpenAI. Default: a photo of a {}.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Table to write: .csv, .parquet or .jsonl.", dir_okay=False, show_default=False
        ),
    ] = None,
    field: Annotated[
        str | None,
        typer.Option(
            help="Write the label of each image of a gallery into this metadata field, for "
            "filters.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Labels for each image in the table.")] = 5,
    truth: Annotated[
        str | None,
        typer.Option(
            help="Measure accuracy: the right labels are in this metadata key, or are the names "
            "of the folders (folder).",
            show_default=False,
        ),
    ] = None,
    labelled: Annotated[
        Path | None,
        typer.Option(
            help="Fit the temperature of the probabilities on this folder, whose right labels "
            "--truth names.",
            callback=existing_folder,
            show_default=False,
        ),
    ] = None,
    json_: Annotated[
        Path | None,
        typer.Option("--json", help="Write the accuracy to this file.", show_default=False),
    ] = None,
    skip_broken: SkipBroken = False,
    cache: Cache = None,
) -> None:
    """Give images the most probable of your labels, without training.

    Example: dualpath classify model photos --labels labels.txt --out labels.csv
    """
    if labelled is not None and truth is None:
        raise typer.BadParameter("--labelled needs --truth, which names the right labels")
    if field is not None and (out is not None or truth is not None):
        raise typer.BadParameter("--field writes into a gallery; leave out --out and --truth")
    if field is None:
        existing_folder(Path(source))
    with handle_errors():
        from dualpath.data.label_table import read_lines, write_label_table
        from dualpath.evaluation.zero_shot import (
            embed_for_classification,
            fit_temperature,
            measure_zero_shot,
            read_targets,
        )
        from dualpath.inference.pretrained import find_model
        from dualpath.inference.zero_shot import (
            DEFAULT_TEMPLATE,
            IMAGENET_TEMPLATES,
            ZeroShotClassifier,
        )
        from dualpath.utils.files import atomic_write

        find_model(bundle, log)
        from dualpath.inference.model import load

        model = load(bundle)
        templates = [
            one
            for name in template or [DEFAULT_TEMPLATE]
            for one in (IMAGENET_TEMPLATES if name == "imagenet" else [name])
        ]
        with bar("embedding labels") as progress:
            classifier = ZeroShotClassifier.from_labels(
                model, read_lines(labels), templates, progress=progress
            )
        options = {"skip_broken": skip_broken}
        if labelled is not None and truth is not None:
            with bar("embedding labelled images") as progress:
                known = embed_for_classification(
                    model, labelled, cache, progress=progress, **options
                )
            targets = read_targets(known.images, classifier.labels, truth)
            classifier = fit_temperature(classifier, known.vectors, targets)
            log(
                f"temperature fitted on {len(targets):,} images: scale {classifier.logit_scale:.3g}"
            )
        if field is not None:
            _tag_gallery(source, bundle, classifier, field)
            return
        with bar("embedding") as progress:
            embedded = embed_for_classification(
                model, Path(source), cache, progress=progress, **options
            )
        names = list(embedded.images.column("file_name"))
        scores = classifier.classify(embedded.vectors, top)
        if truth is not None:
            targets = read_targets(embedded.images, classifier.labels, truth)
            result = measure_zero_shot(classifier, embedded.vectors, targets)
            print_rows(_result_rows(result))
            if json_ is not None:
                text = json.dumps({**result.to_dict(), "templates": templates}, indent=2)
                atomic_write(json_, text + "\n")
        if out is not None:
            write_label_table(out, names, scores)
            out_console.print(f"{len(names):,} images: {out}", markup=False)
        elif truth is None:
            for name, [best, *_] in zip(names, scores, strict=True):
                line = f"{100 * best.probability:5.1f} %  {best.label}  {name}"
                out_console.print(line, markup=False, highlight=False)


def _tag_gallery(address: str, bundle: str, classifier: "ZeroShotClassifier", field: str) -> None:
    from dualpath.gallery.tagging import classify_gallery

    with open_gallery(address, bundle) as gallery:
        with bar("classifying", len(gallery)) as progress:
            count = classify_gallery(gallery, classifier, field, progress=progress)
        out_console.print(f"{count:,} images of {address}: field {field}", markup=False)


def _result_rows(result: "ZeroShotResult") -> dict[str, object]:
    return {
        "images": f"{result.images:,}, {result.labels:,} labels",
        "top-1": f"{result.top_1:.2f} %",
        "top-5": f"{result.top_5:.2f} %",
        "mean per class": f"{result.mean_per_class:.2f} %",
        "calibration": f"error {result.calibration_error:.4f} at scale {result.logit_scale:.4g}",
    }
