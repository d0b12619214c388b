"""The command line: a thin skin over the public functions."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dualpath.console import (
    bar,
    err_console,
    errors_for_people,
    kill_as_interruption,
    out_console,
)
from dualpath.gallery_commands import gallery_app, search
from dualpath.prepare_commands import prepare_app
from dualpath.serve_commands import keys_app, serve

if TYPE_CHECKING:
    from dualpath.embedding import DualPath

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
data_app = typer.Typer(no_args_is_help=True)
app.add_typer(data_app, name="data", help="Look at a folder of captioned pictures.")
app.add_typer(prepare_app, name="prepare", help="Write a folder of captioned pictures.")
app.add_typer(gallery_app, name="gallery", help="Fill a gallery and look after it.")
app.add_typer(keys_app, name="keys", help="Make and revoke API keys.")
app.command()(search)
app.command()(serve)

Runtime = Literal["openvino", "onnxruntime"]
Precision = Literal["fp32", "int8"]
Bundle = Annotated[str, typer.Argument(help="Folder of a trained model, or its id on the hub.")]
Data = Annotated[Path, typer.Option(help="Folder with a manifest.")]
Cache = Annotated[
    Path | None, typer.Option(help="Folder for what is kept between runs.", envvar="DUALPATH_CACHE")
]
SkipBroken = Annotated[bool, typer.Option("--skip-broken", help="Leave broken pictures out.")]


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe (YAML).")],
    data: Annotated[Path | None, typer.Option(help="Folder with a manifest.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write the bundle to.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key, as stages.0.epochs=3.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training in OUT.")
    ] = False,
    skip_broken: SkipBroken = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Build it all without data; print groups, rates and memory."
        ),
    ] = False,
    cache: Cache = None,
) -> None:
    """Train a model on a folder of captioned pictures."""
    if dry_run:
        _dry_run(recipe, set_)
        return
    if data is None or out is None:
        raise typer.BadParameter("a training needs --data and --out")
    with errors_for_people("; go on with --resume"), kill_as_interruption():
        from dualpath.evaluation.report import metrics_table
        from dualpath.recipe_file import read_recipe
        from dualpath.training.together import meet_processes
        from dualpath.training.train import train as run

        model = run(
            read_recipe(recipe, set_),
            data,
            out,
            resume=resume,
            skip_broken=skip_broken,
            cache=cache,
        )
        if not meet_processes().is_main_process:
            return
        if model.metrics["validation"]:
            out_console.print(metrics_table(model.metrics["validation"]))
        out_console.print(f"bundle: {out}", markup=False)


@app.command()
def evaluate(
    bundle: Bundle,
    data: Data,
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "test",
    protocol: Annotated[
        str, typer.Option(help="all, flickr-1k, coco-1k, coco-5k or person (text to image).")
    ] = "all",
    query_bank: Annotated[
        str | None,
        typer.Option(help="Re-rank by the queries of this split: train, or the split itself."),
    ] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the metrics here.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a picture sheet (HTML) here.")] = None,
    skip_broken: SkipBroken = False,
    cache: Cache = None,
) -> None:
    """Measure retrieval in both directions."""
    with errors_for_people():
        from dualpath.evaluation.evaluate import evaluate as run
        from dualpath.evaluation.report import metrics_table

        model = _load(bundle)
        with bar("embedding") as advance:
            metrics = run(
                model,
                data,
                split=split,
                protocol=protocol,
                query_bank=query_bank,
                sheet=sheet,
                skip_broken=skip_broken,
                cache=cache,
                advance=advance,
            )
        metrics |= {"data": str(data), "seed": model.recipe.seed, **_provenance()}
        out_console.print(metrics_table(metrics))
        if json_ is not None:
            json_.parent.mkdir(parents=True, exist_ok=True)
            json_.write_text(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n", "utf-8")


@app.command()
def embed(
    bundle: Bundle,
    source: Annotated[Path, typer.Argument(help="Folder of pictures, or .txt, a sentence a line.")],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    captions: Annotated[
        bool, typer.Option("--captions", help="The captions of the folder instead of its pictures.")
    ] = False,
    skip_broken: SkipBroken = False,
    cache: Cache = None,
) -> None:
    """Write pictures or sentences as unit vectors to a Parquet file."""
    with errors_for_people():
        from dualpath.data.cache import default_cache_folder
        from dualpath.data.manifest import ManifestError, read_manifest, read_pictures
        from dualpath.data.pictures import broken_pictures_message

        model = _load(bundle)
        columns: dict[str, list[str]]
        with bar("embedding") as advance:
            if source.is_file() or captions:
                columns = (
                    {"text": source.read_text("utf-8").splitlines()}
                    if source.is_file()
                    else _caption_columns(read_manifest(source))
                )
                vectors = model.embed_texts(columns["text"], advance=advance)
            else:
                items = read_pictures(source).items
                sound, vectors, broken = model.embed_folder(
                    items.paths,
                    cache or default_cache_folder(),
                    workers=model.recipe.workers,
                    advance=advance,
                )
                if broken and not skip_broken:
                    raise ManifestError(broken_pictures_message(broken))
                columns = {"file_name": list(items.where(sound).column("file_name"))}
        _write_vectors(out, columns, vectors)
        out_console.print(f"{len(vectors):,} vectors of {model.dim} numbers: {out}", markup=False)


@app.command()
def export(
    bundle: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    data: Annotated[Path, typer.Option(help="Folder with a manifest, to calibrate and to check.")],
    runtime: Annotated[Runtime, typer.Option(help="What is to run it.")] = "openvino",
    precision: Annotated[Precision, typer.Option(help="Of weights and activations.")] = "fp32",
) -> None:
    """Write both encoders for a faster runtime into a model; load takes the fastest."""
    with errors_for_people():
        from dualpath.exporting import export as run

        for one in run(bundle, data, runtime=runtime, precision=precision, say=err_console.print):
            out_console.print(f"exported: {bundle / one.file}", markup=False)


@app.command()
def info(bundle: Bundle) -> None:
    """Describe a trained model."""
    with errors_for_people():
        from dualpath.bundle import describe_text_encoder
        from dualpath.evaluation.report import metrics_table
        from dualpath.runtimes import describe_runtime

        model = _load(bundle)
        image, text = model.recipe.image_encoder, model.recipe.text_encoder
        parameters = {
            name: sum(parameter.numel() for parameter in part.parameters())
            for name, part in model.network.named_children()
        }
        rows = {
            "name": model.recipe.name,
            "image encoder": f"{image.backbone}, {image.input_size} pixels, "
            f"{parameters['image_encoder']:,} parameters",
            "text encoder": f"{describe_text_encoder(text)}, "
            f"{parameters['text_encoder']:,} parameters",
            "vocabulary": f"{model.tokenizer.rows - 1:,} words ({text.vocabulary}), "
            f"at most {text.max_words} in a sentence",
            "space": f"{model.dim} dimensions, cosine",
            "pictures in": describe_runtime(model.exported.get("image_encoder")),
            "sentences in": describe_runtime(model.exported.get("text_encoder")),
            "stages": ", ".join(f"{s.name} ({s.epochs} epochs)" for s in model.recipe.stages),
            "seed": model.recipe.seed,
            "fingerprint": model.fingerprint,
        }
        for name, value in rows.items():
            out_console.print(f"{name:14} {value}", markup=False, highlight=False)
        if model.metrics.get("validation"):
            out_console.print(metrics_table(model.metrics["validation"]))


@data_app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="Folder with a manifest.")], cache: Cache = None
) -> None:
    """Check a manifest and its pictures: counts, warnings, errors (exit code 1)."""
    with errors_for_people():
        from dualpath.data.check import check_folder

        with bar("checking pictures") as advance:
            report = check_folder(folder, cache, advance)
        for line in report.counts:
            out_console.print(line, markup=False)
        for line in report.warnings:
            err_console.print(f"warning: {line}", markup=False)
        for line in report.errors:
            err_console.print(f"error: {line}", markup=False)
        if report.errors:
            raise typer.Exit(1)


def _dry_run(recipe: Path, overrides: list[str] | None) -> None:
    with errors_for_people():
        from rich.table import Table

        from dualpath.recipe_file import read_recipe
        from dualpath.training.dry_run import dry_run

        for stage in dry_run(read_recipe(recipe, overrides)):
            table = Table(title=f"{stage.name}: {stage.memory / 2**30:.2f} GiB")
            for column in ("group", "parameters", "learning rate", "weight decay"):
                table.add_column(column, justify="left" if column == "group" else "right")
            for group in stage.groups:
                rate = f"{group.lr:g}" if group.lr else "frozen"
                table.add_row(group.name, f"{group.parameters:,}", rate, f"{group.weight_decay:g}")
            out_console.print(table)
            parts = ("weights", "gradients", "optimiser", "activations")
            sizes = ", ".join(f"{part} {getattr(stage, part) / 2**30:.2f}" for part in parts)
            out_console.print(f"GiB: {sizes}", highlight=False)


def _load(bundle: str) -> "DualPath":
    from dualpath.embedding import DualPath

    return DualPath.from_pretrained(bundle)


def _caption_columns(manifest: Any) -> dict[str, list[str]]:
    pairs = [(item.file_name, caption) for item in manifest.items for caption in item.captions]
    return {"file_name": [name for name, _ in pairs], "text": [caption for _, caption in pairs]}


def _write_vectors(path: Path, columns: dict[str, list[str]], vectors: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    vector = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**columns, "vector": vector}), path)


def _provenance() -> dict[str, str]:
    """What a number needs to be repeated: version, commit (if any) and command."""
    import subprocess
    from importlib.metadata import version

    here = Path(__file__).resolve().parent
    git = ["git", "-C", str(here), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        commit = ""
    arguments = [os.path.basename(sys.argv[0]), *sys.argv[1:]]  # noqa: PTH119
    return {
        "version": version("dualpath"),
        "commit": commit.strip() or "unknown",
        "command": shlex.join(arguments),
    }
