"""Images and sentences to vectors, beside bare forward passes and open_clip's towers."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from material import Material
from PIL import Image
from timing import Row, paired

from dualpath.data.images import decode_image
from dualpath.data.tokenizer import trim_padding
from dualpath.data.transforms import decode_size
from dualpath.errors import ExportError
from dualpath.exporting.export import export
from dualpath.inference.model import DualPath, load
from dualpath.inference.runtimes import Engine, open_engine
from dualpath.models.layers import evaluating
from dualpath.models.text.cnn import TextCNN
from training import BiGRU

IMAGES = 64


def image_rows(material: Material) -> Iterator[Row]:
    import open_clip

    model = material.model("flickr30k", test_size=None, flip_average=False)
    files = material.files[:IMAGES]
    rendered = torch.cat([model.render(Image.open(path)) for path in files])
    with torch.no_grad():
        yield paired(
            "images",
            f"{IMAGES} JPEG files to vectors, ResNet-50, torch",
            lambda: model.embed_images(files, workers=1),
            "forward pass on a tensor, torch",
            lambda: [model.network.embed_images(part) for part in rendered.split(32)],
            asked=0.9,
        )
        tower, _, preprocess = open_clip.create_model_and_transforms("RN50")
        tower.eval()
        yield paired(
            "images",
            f"{IMAGES} JPEG files to vectors, ResNet-50, torch",
            lambda: model.embed_images(files, workers=1),
            "open_clip RN50 (attention pooling, 224 px), its own preprocessing",
            lambda: [
                tower.encode_image(torch.stack([preprocess(Image.open(p)) for p in part]))
                for part in (files[:32], files[32:])
            ],
        )
    photograph = material.photograph()
    yield paired(
        "images",
        "decode a JPEG of 4000 x 3000 for 224 px, at reduced scale",
        lambda: decode_image(photograph, "", side=decode_size(224)),
        "at its full size",
        lambda: decode_image(photograph, ""),
    )


def runtime_rows(material: Material, bundles: list[Path]) -> Iterator[Row]:
    """Each runtime and precision beside eager torch, images as tensors; bundles are copied."""
    for bundle in bundles:
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "bundle"
            load(bundle, runtime="torch").save_pretrained(copy)
            yield from _runtimes(material, copy, bundle.name)


def _runtimes(material: Material, bundle: Path, name: str) -> Iterator[Row]:
    model = load(bundle, runtime="torch")
    encoder = model.network.image_encoder
    for runtime, precision in (
        ("onnxruntime", "fp32"),
        ("openvino", "fp32"),
        ("onnxruntime", "int8"),
        ("openvino", "int8"),
    ):
        told: list[str] = []
        try:
            exported, *_ = export(
                bundle, material.data, runtime=runtime, precision=precision, say=told.append
            )
        except ExportError as error:
            print(f"{name}, {runtime} {precision}: {error}")
            continue
        engine = open_engine(bundle / exported.file)
        recall = "; ".join(line for line in told if "R@1" in line)
        for count in (1, 16):
            pixels = torch.stack([model.render(Image.open(p))[0] for p in material.files[:count]])
            with torch.no_grad():
                yield paired(
                    "runtimes",
                    f"{count} image{'s' if count > 1 else ''}, {name}, {runtime} {precision}",
                    lambda engine=engine, pixels=pixels: engine(pixels.numpy()),
                    "eager torch (channels last)",
                    lambda pixels=pixels: encoder(pixels),
                    rounds=9,
                    asked=1.4 if precision == "fp32" else 3.0,
                    note=f"cosine {exported.cosine:.4f}" + (f"; {recall}" if recall else ""),
                )
        if (runtime, precision) == ("openvino", "int8"):
            yield _files_in_runtime(material, bundle, name)


def _files_in_runtime(material: Material, bundle: Path, name: str) -> Row:
    model: DualPath = load(bundle)
    files = material.files  # all: the first batch is decoded while nothing can be computed yet
    exported = model.exported["image_encoder"]
    engine = open_engine(bundle / exported.file)
    views = torch.cat([model.render(Image.open(path)) for path in files]).numpy()
    step = 32 * len(model.render(Image.open(files[0])))
    runtime = f"{exported.runtime} {exported.precision}"
    return paired(
        "images",
        f"{len(files)} JPEG files to vectors, {name}, {runtime}",
        lambda: model.embed_images(files, workers=1),
        "forward pass on a tensor, the same runtime",
        lambda: [engine(views[i : i + step]) for i in range(0, len(views), step)],
        asked=0.9,
    )


def sentence_runtime_rows(material: Material, bundles: list[Path]) -> Iterator[Row]:
    """The text path of each bundle in each runtime beside eager torch; bundles are copied."""
    for bundle in bundles:
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "bundle"
            model = load(bundle, runtime="torch")
            model.save_pretrained(copy)
            for runtime in ("onnxruntime", "openvino"):
                _, *text = export(copy, material.data, runtime=runtime)
                for exported in text:
                    engine = open_engine(copy / exported.file)
                    yield from _sentences_in_engine(material, model, engine, bundle.name, runtime)


def _sentences_in_engine(
    material: Material, model: DualPath, engine: Engine, name: str, runtime: str
) -> Iterator[Row]:
    average = model.recipe.text_encoder.position_shift
    for count in (1, 256):  # the model itself leaves as many as 256 to torch
        words = trim_padding(model.tokenizer.encode(material.captions[:count]))
        with evaluating(model.network):
            yield paired(
                "questions",
                f"{count} sentence{'s' if count > 1 else ''}, tokens to vectors, {name}, {runtime}",
                lambda words=words: engine(words),
                "eager torch",
                lambda words=words: model.network.embed_texts(
                    torch.from_numpy(words), average=average
                ),
                rounds=9,
            )


def text_rows(material: Material) -> Iterator[Row]:
    import open_clip

    tower = open_clip.create_model("RN50").eval()
    tokenize = open_clip.get_tokenizer("RN50")
    rnn = BiGRU(material.tokenizer.num_embeddings, 300).eval()
    for name, told in (
        ("flickr8k", "residual text CNN of recipes/flickr8k.yaml"),
        ("flickr30k", "the paper's text CNN, all its placements"),
    ):
        model = material.model(name)
        for count in (1, 256):
            sentences = material.captions[:count]

            def recurrent(sentences: list[str] = sentences) -> object:
                return rnn(torch.from_numpy(material.tokenizer.encode(sentences)))

            def transformer(sentences: list[str] = sentences) -> object:
                return tower.encode_text(tokenize(sentences))

            for beside, call in (
                ("open_clip RN50's text tower (12 layers, 77 tokens)", transformer),
                ("a bidirectional GRU of 1,024 units", recurrent),
            ):
                with torch.no_grad():
                    yield paired(
                        "sentences",
                        f"{count} sentence{'s' if count > 1 else ''} to vectors, {told}",
                        lambda model=model, s=sentences: model.embed_texts(s),
                        beside,
                        call,
                        rounds=9 if count == 1 else 3,
                    )
    yield from _sharing(material)


def _sharing(material: Material) -> Iterator[Row]:
    """What the placements of a sentence have in common, computed once or for each of them."""
    for padding in ("masked", "unmasked"):
        encoder = TextCNN(material.tokenizer.num_embeddings, dim=512, padding=padding).eval()
        token_ids = torch.from_numpy(material.tokenizer.encode(material.captions[:64]))
        placed, owners = encoder.place_everywhere(token_ids)
        starts = torch.zeros(len(token_ids), dtype=torch.int64)
        left_aligned = encoder.place(token_ids, starts)
        what = f"64 sentences in all {len(owners) / 64:.0f} placements, {padding}, width 1, shared"
        for beside, call in (
            (
                "a row for each position, as in training",
                lambda e=encoder, p=placed: _unshared(e, p),
            ),
            ("one placement", lambda e=encoder, one=left_aligned: e(one)),
        ):
            with torch.no_grad():
                yield paired(
                    "sentences", what, lambda e=encoder, p=placed: e(p), beside, call, rounds=3
                )


def _unshared(encoder: TextCNN, placed: torch.Tensor) -> torch.Tensor:
    """The forward pass of training, with the running statistics."""
    encoder.training = True  # of this module alone: its normalisations stay as they are
    try:
        features: torch.Tensor = encoder(placed)
    finally:
        encoder.training = False
    return features
