"""Embeddings by the original library, as its documentation computes them; and inputs to compare."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dualpath.types import Vectors

TEXTS = [
    "a photo of a dog",
    "A Photo, of a DOG!",
    "",
    "it’s a dog isn't it   50% off",
    "ein Mädchen mit einem Hund",
    "犬の写真 🐶",
    "two red cars in front of a house " * 40,
]


def odd_images() -> dict[str, Image.Image]:
    generator = np.random.default_rng(0)

    def noise(*shape: int) -> Image.Image:
        small = generator.integers(0, 256, (*[-(-n // 8) for n in shape[:2]], *shape[2:]), np.uint8)
        image = Image.fromarray(small)
        return image.resize((shape[1], shape[0]), Image.Resampling.BICUBIC)

    clear = noise(90, 70, 4)
    palette = noise(80, 121, 3).quantize(31)
    transparent = palette.copy()
    transparent.info["transparency"] = 3
    return {
        "square": noise(64, 64, 3),
        "tall": noise(301, 40, 3),
        "wide": noise(33, 400, 3),
        "odd": noise(67, 45, 3),
        "one pixel": Image.new("RGB", (1, 1), (200, 10, 90)),
        "one column": noise(90, 1, 3),
        "small": noise(9, 7, 3),
        "grey": noise(50, 77),
        "grey with alpha": noise(50, 77).convert("LA"),
        "alpha": clear,
        "palette": palette,
        "transparent palette": transparent,
    }


def is_open_clip(folder: Path) -> bool:
    return (folder / "open_clip_config.json").is_file()


@torch.no_grad()
def reference_images(folder: Path, images: list[Image.Image]) -> Vectors:
    if is_open_clip(folder):
        import open_clip

        model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
        features = model.eval().encode_image(torch.stack([preprocess(image) for image in images]))
    else:
        from transformers import AutoImageProcessor, AutoModel

        # The backend that resamples with Pillow; that of torchvision rounds otherwise.
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        batches = [processor(images=image, return_tensors="pt") for image in images]
        pixels = torch.cat([batch["pixel_values"] for batch in batches])
        model = AutoModel.from_pretrained(folder).eval()
        features = model.get_image_features(pixel_values=pixels)
        features = getattr(features, "pooler_output", features)
    return torch.nn.functional.normalize(features).numpy()


@torch.no_grad()
def reference_texts(folder: Path, texts: list[str]) -> Vectors:
    if is_open_clip(folder):
        import open_clip

        model, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
        features = model.eval().encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(texts))
    else:
        from transformers import AutoModel, AutoTokenizer

        model = AutoModel.from_pretrained(folder).eval()
        positions = model.config.text_config.max_position_embeddings
        tokenizer = AutoTokenizer.from_pretrained(folder)
        inputs = tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=min(tokenizer.model_max_length, positions),
            return_tensors="pt",
        )
        names = ("input_ids", "attention_mask")
        features = model.get_text_features(**{n: inputs[n] for n in names if n in inputs})
        features = getattr(features, "pooler_output", features)
    return torch.nn.functional.normalize(features).numpy()
