"""``dualpath evaluate``, ``embed``, ``export`` and ``info``."""

import json
import shlex
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dualpath.cli.console import (
    Cache,
    Data,
    SkipBroken,
    bar,
    existing_folder,
    existing_path,
    handle_errors,
    log,
    out_console,
    print_rows,
)
from dualpath.cli.tables import metrics_table

if TYPE_CHECKING:
    from dualpath.inference.model import DualPath

Bundle = Annotated[
    str,
    typer.Argument(
        help="Folder of a trained model or of a pretrained one (CLIP, SigLIP), or the id of either "
        "on the Hugging Face hub."
    ),
]


class RuntimeName(StrEnum):
    """Runtimes that a model can be exported to."""

    openvino = "openvino"
    onnxruntime = "onnxruntime"


class PrecisionName(StrEnum):
    """Precisions of an exported image encoder."""

    fp32 = "fp32"
    int8 = "int8"


class ProtocolName(StrEnum):
    """Evaluation protocols; a test compares them with evaluation.protocols.PROTOCOLS."""

    all = "all"
    flickr_1k = "flickr-1k"
    coco_1k = "coco-1k"
    coco_5k = "coco-5k"
    person = "person"


def evaluate(
    bundle: Bundle,
    data: Data,
    split: Annotated[
        str, typer.Option(help="Split to measure: train, val, test, another one, or all.")
    ] = "test",
    protocol: Annotated[
        ProtocolName,
        typer.Option(
            help="all: every image with every caption, both ways. flickr-1k, coco-1k, coco-5k: the "
            "published protocols. person: text to image, every image of the person is right."
        ),
    ] = ProtocolName.all,
    query_bank: Annotated[
        str | None,
        typer.Option(
            help="Re-rank by the queries of this split (querybank normalisation): train, or the "
            "measured split.",
            show_default=False,
        ),
    ] = None,
    json_: Annotated[
        Path | None,
        typer.Option("--json", help="Write the metrics to this file.", show_default=False),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            "--sheet",
            help="Write a report with example queries to this HTML file.",
            show_default=False,
        ),
    ] = None,
    skip_broken: SkipBroken = False,
    cache: Cache = None,
) -> None:
    """Measure retrieval on a split, from images to captions and from captions to images."""
    with handle_errors():
        from dualpath.evaluation.evaluate import evaluate as run
        from dualpath.utils.files import atomic_write

        model = _load(bundle)
        with bar("embedding") as progress:
            result = run(
                model,
                data,
                split=split,
                protocol=protocol,
                query_bank=query_bank,
                html=html,
                skip_broken=skip_broken,
                cache=cache,
                progress=progress,
                log=log,
            )
        out_console.print(metrics_table(result))
        if json_ is not None:
            metrics = {**result.to_dict(), "data": str(data), "seed": model.recipe.seed}
            text = json.dumps({**metrics, **_provenance()}, indent=2, ensure_ascii=False)
            atomic_write(json_, text + "\n")


def embed(
    bundle: Bundle,
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder of images, or a text file with one text per line.", callback=existing_path
        ),
    ],
    out: Annotated[Path, typer.Option(help="Parquet file to write.", dir_okay=False)],
    captions: Annotated[
        bool, typer.Option("--captions", help="Embed the captions of the folder, not its images.")
    ] = False,
    skip_broken: SkipBroken = False,
    cache: Cache = None,
) -> None:
    """Embed images or texts and write the unit vectors to a Parquet file."""
    with handle_errors():
        from dualpath.data.parquet import write_vectors
        from dualpath.inference.embed import embed_captions, embed_image_folder, embed_text_file

        model = _load(bundle)
        with bar("embedding") as progress:
            if source.is_file():
                columns, vectors = embed_text_file(model, source, progress)
            elif captions:
                columns, vectors = embed_captions(model, source, progress)
            else:
                columns, vectors = embed_image_folder(
                    model, source, cache, skip_broken=skip_broken, progress=progress, log=log
                )
        write_vectors(out, columns, vectors)
        out_console.print(
            f"{len(vectors):,} vectors of {model.dim} dimensions: {out}", markup=False
        )


def export(
    bundle: Annotated[
        Path, typer.Argument(help="Folder of a trained model.", callback=existing_folder)
    ],
    data: Annotated[
        Path,
        typer.Option(
            help="Folder of captioned images, to calibrate int8 and to check the result.",
            callback=existing_folder,
        ),
    ],
    runtime: Annotated[
        RuntimeName, typer.Option(help="Inference runtime of the exported model.")
    ] = RuntimeName.openvino,
    precision: Annotated[
        PrecisionName, typer.Option(help="Precision of the image encoder.")
    ] = PrecisionName.fp32,
) -> None:
    """Add encoders for a faster runtime to a model, which loads the fastest one from then on."""
    with handle_errors():
        from dualpath.exporting.export import export as run

        for encoder in run(bundle, data, runtime=runtime.value, precision=precision.value, log=log):
            out_console.print(f"exported: {bundle / encoder.file}", markup=False)


def info(bundle: Bundle) -> None:
    """Describe a trained model."""
    with handle_errors():
        from dualpath.evaluation.protocols import EvaluationResult

        model = _load(bundle)
        image, text = model.recipe.image_encoder, model.recipe.text_encoder
        parameters = model.count_parameters()
        rows: dict[str, object] = {
            "name": model.recipe.name,
            **_origin(model),
            "image encoder": f"{image.description}, {image.input_size} pixels, "
            f"{parameters['image_encoder']:,} parameters",
            "text encoder": f"{text.description}, {parameters['text_encoder']:,} parameters",
            "vocabulary": f"{model.tokenizer.num_embeddings - 1:,} "
            f"{'tokens' if text.vocabulary == 'subword' else 'words'} ({text.vocabulary}), "
            f"at most {text.max_words} in a text",
            "space": f"{model.dim} dimensions, cosine",
            "image runtime": model.exported.get("image_encoder", "torch"),
            "text runtime": model.exported.get("text_encoder", "torch"),
            "stages": ", ".join(f"{s.name} ({s.epochs} epochs)" for s in model.recipe.stages)
            or "none",
            "seed": model.recipe.seed,
            "fingerprint": model.fingerprint,
        }
        print_rows(rows)
        if model.metrics.get("validation"):
            result = EvaluationResult.from_dict(model.metrics["validation"])
            out_console.print(metrics_table(result))


def _origin(model: "DualPath") -> dict[str, object]:
    """Return the rows about the pretrained image-text model that a bundle is."""
    original, similarity = model.metrics.get("original"), model.similarity
    if original is None or similarity is None:
        return {}
    bias = "" if similarity.logit_bias is None else f", bias {similarity.logit_bias:.4g}"
    return {
        "original": f"{original['name']} ({original['library']}), licence "
        f"{original['licence'] or 'not stated'}",
        "logits": f"scale {similarity.logit_scale:.4g}{bias}",
    }


def _load(bundle: str) -> "DualPath":
    from dualpath.inference.pretrained import find_model

    folder = find_model(bundle, log)  # a missing bundle is reported before torch is imported
    from dualpath.inference.model import DualPath

    return DualPath.from_pretrained(folder)


def _provenance() -> dict[str, str]:
    """Return what repeats a result: version, commit (if there is one) and command."""
    from importlib.metadata import version

    here = Path(__file__).resolve().parent
    git = ["git", "-C", str(here), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        commit = ""
    return {
        "version": version("dualpath"),
        "commit": commit.strip() or "unknown",
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
