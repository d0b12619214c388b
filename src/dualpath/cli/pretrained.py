"""``dualpath pretrained``: a pretrained image-text model as a bundle."""

from pathlib import Path
from typing import Annotated

import typer

from dualpath.cli.console import handle_errors, log, out_console


def pretrained(
    name: Annotated[
        str,
        typer.Argument(
            help="Folder of transformers or open_clip; an id of the Hugging Face hub such as "
            "google/siglip2-base-patch16-224; or open_clip's hf-hub:USER/NAME or local-dir:FOLDER."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.", file_okay=False)],
) -> None:
    """Write a pretrained image-text model (CLIP, SigLIP and their like) as a bundle.

    Other commands accept such names directly and store the converted model in the cache.
    """
    with handle_errors():
        from dualpath.inference.pretrained import convert_pretrained

        convert_pretrained(name, out, log=log)
        out_console.print(f"written: {out}", markup=False)
