"""Images to vectors, compared with forward passes alone and with open_clip."""

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from material import Material
from PIL import Image
from timing import Row, compare

from dualpath.data.images import decode_image
from dualpath.data.transforms import decode_size
from dualpath.errors import ExportError
from dualpath.exporting.export import export
from dualpath.inference.model import DualPath, load
from dualpath.inference.runtimes import Precision, Runtime, open_engine
from dualpath.types import Pixels

IMAGES, BATCH = 64, 32
EXPORTS: tuple[tuple[Runtime, Precision], ...] = (
    ("onnxruntime", "fp32"),
    ("openvino", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "int8"),
)
TARGETS: dict[Precision, float] = {"fp32": 1.4, "int8": 3.0}


def image_rows(material: Material) -> Iterator[Row]:
    """Measure ResNet-50 in torch on files, and the decoding of a large image."""
    import open_clip

    model = material.model("flickr30k", test_size=None, flip_average=False)
    files = material.files[:IMAGES]
    pixels = torch.from_numpy(_preprocess(model, files))
    measured = f"{len(files)} JPEG files to vectors, ResNet-50, torch"
    with torch.no_grad():
        yield compare(
            "images",
            measured,
            lambda: model.embed_images(files, workers=1),
            "forward pass on a tensor, torch",
            lambda: [model.network.embed_images(part) for part in torch.split(pixels, BATCH)],
            target=0.9,
        )
        clip, _, clip_preprocess = open_clip.create_model_and_transforms("RN50")
        clip.eval()

        def embed_with_clip() -> None:
            for start in range(0, len(files), BATCH):
                part = [clip_preprocess(Image.open(path)) for path in files[start : start + BATCH]]
                clip.encode_image(torch.stack(part))

        yield compare(
            "images",
            measured,
            lambda: model.embed_images(files, workers=1),
            "open_clip RN50 (attention pooling, 224 px), its own preprocessing",
            embed_with_clip,
        )
    photograph = material.photograph()
    yield compare(
        "images",
        "decode a JPEG of 4000 x 3000 for 224 px, at reduced scale",
        lambda: decode_image(photograph, "", side=decode_size(224)),
        "at full size",
        lambda: decode_image(photograph, ""),
    )


def runtime_rows(material: Material, bundles: Sequence[Path]) -> Iterator[Row]:
    """Compare each runtime and precision with torch, on tensors; the bundles are copied."""
    for bundle in bundles:
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "bundle"
            load(bundle, runtime="torch").save_pretrained(copy)
            for runtime, precision in EXPORTS:
                yield from _export_rows(material, copy, bundle.name, runtime, precision)


def _export_rows(
    material: Material, bundle: Path, name: str, runtime: Runtime, precision: Precision
) -> Iterator[Row]:
    lines: list[str] = []
    try:
        exported, *_ = export(
            bundle, material.data, runtime=runtime, precision=precision, log=lines.append
        )
    except ExportError as error:
        print(f"{name}, {runtime} {precision}: {error}")
        return
    notes = [f"cosine {exported.cosine:.4f}", *(line for line in lines if "R@1" in line)]
    engine = open_engine(bundle / exported.file)
    model = load(bundle, runtime="torch")
    encoder = model.network.image_encoder
    for count in (1, 16):
        pixels = np.stack([model.preprocess(Image.open(p))[0] for p in material.files[:count]])
        tensor = torch.from_numpy(pixels)
        with torch.no_grad():
            yield compare(
                "runtimes",
                f"{count} image{'s' if count > 1 else ''}, {name}, {runtime} {precision}",
                partial(engine, pixels),
                "eager torch (channels last)",
                partial(encoder, tensor),
                rounds=9,
                target=TARGETS[precision],
                note="; ".join(notes),
            )
    if (runtime, precision) == ("openvino", "int8"):
        yield _files_row(material, bundle, name)


def _files_row(material: Material, bundle: Path, name: str) -> Row:
    """Measure a bundle on files in its fastest runtime."""
    model = load(bundle)
    files = material.files  # all of them: while the first batch is decoded, the network waits
    exported = model.exported["image_encoder"]
    engine = open_engine(bundle / exported.file)
    pixels = _preprocess(model, files)
    step = BATCH * (len(pixels) // len(files))
    return compare(
        "images",
        f"{len(files)} JPEG files to vectors, {name}, {exported.runtime} {exported.precision}",
        lambda: model.embed_images(files, workers=1),
        "forward pass on a tensor, the same runtime",
        lambda: [engine(pixels[start : start + step]) for start in range(0, len(pixels), step)],
        target=0.9,
    )


def _preprocess(model: DualPath, files: Sequence[Path]) -> Pixels:
    """Return all views of the files, (files x views, 3, h, w) uint8."""
    return np.concatenate([model.preprocess(Image.open(path)) for path in files])
