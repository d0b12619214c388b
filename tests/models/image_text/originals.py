"""Tiny pretrained image-text models of random weights, as their own libraries write them."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

SIDE = 32  # pixels
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
CORPUS = [
    "a photo of a dog",
    "two red cars in front of a house",
    "word after word after word",
    "ein Mädchen mit einem Hund",
    "it's a dog isn't it 50% off",
    "a red circle left of a small blue square",
    "犬の写真",
]


def write_original(family: str, folder: Path) -> Path:
    """Write a tiny model of a family, and return its folder."""
    torch.manual_seed(0)
    FAMILIES[family](folder)
    return folder


def _write_clip(folder: Path) -> None:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    tokenizer = CLIPTokenizer(*_byte_pairs(["<|startoftext|>", "<|endoftext|>"]))
    tokenizer.model_max_length = 20
    text = {
        **TEXT,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 20,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model = CLIPModel(CLIPConfig(vision_config=VISION, text_config=text, projection_dim=24))
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=_square())
    _save(folder, model, processor, tokenizer)


def _write_siglip(folder: Path) -> None:
    import sentencepiece
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line.lower() for line in CORPUS * 3]),
        model_prefix=str(folder / "spiece"),
        vocab_size=90,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    tokenizer = SiglipTokenizer(str(folder / "spiece.model"), model_input_names=["input_ids"])
    tokenizer.model_max_length = 16
    config = SiglipConfig(
        vision_config=VISION,
        text_config={**TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": 16},
    )
    processor = SiglipImageProcessor(size=_square(), resample=3)
    _save(folder, SiglipModel(config), processor, tokenizer)


def _write_siglip2(folder: Path) -> None:
    from transformers import GemmaTokenizer, SiglipConfig, SiglipImageProcessor, SiglipModel

    characters = sorted({character for line in CORPUS for character in line} - {" "})
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *characters]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [("▁", "d"), ("o", "g"), ("▁d", "og"), ("▁", "a")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    tokenizer = GemmaTokenizer(
        vocabulary,
        merges,
        add_bos_token=False,
        add_eos_token=True,
        padding_side="right",
        model_input_names=["input_ids"],
    )
    tokenizer.model_max_length = 16
    config = SiglipConfig(
        vision_config=VISION,
        text_config={**TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": 16},
    )
    processor = SiglipImageProcessor(size=_square(), resample=2)
    _save(folder, SiglipModel(config), processor, tokenizer)


def _write_chinese_clip(folder: Path) -> None:
    from transformers import (
        BertTokenizer,
        ChineseCLIPConfig,
        ChineseCLIPImageProcessor,
        ChineseCLIPModel,
    )

    words = sorted({word for line in CORPUS for word in line.lower().split()} | set("犬の写真"))
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    tokenizer = BertTokenizer({name: number for number, name in enumerate(names)})
    tokenizer.model_max_length = 512
    text = {**TEXT, "vocab_size": len(names), "max_position_embeddings": 40}
    config = ChineseCLIPConfig(vision_config=VISION, text_config=text, projection_dim=24)
    processor = ChineseCLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size=_square(), do_center_crop=True
    )
    _save(folder, ChineseCLIPModel(config), processor, tokenizer)


def _write_altclip(folder: Path) -> None:
    from transformers import AltCLIPConfig, AltCLIPModel, CLIPImageProcessor, XLMRobertaTokenizer

    words = sorted({f"▁{word}" for line in CORPUS for word in line.split()})
    letters = sorted({letter for line in CORPUS for letter in line} - {" "})
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *words, *letters, "<mask>"]
    scores = {piece: -float(len(piece) < 3) - 1 for piece in pieces}
    tokenizer = XLMRobertaTokenizer([(piece, scores[piece]) for piece in pieces])
    tokenizer.model_max_length = 18
    text = {
        **TEXT,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 22,
        "project_dim": 24,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    config = AltCLIPConfig(vision_config=VISION, text_config=text, projection_dim=24)
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE + 4}, crop_size=_square())
    _save(folder, AltCLIPModel(config), processor, tokenizer)


def _write_open_clip(folder: Path) -> None:
    _save_open_clip(folder, {})


def _write_mobile_clip(folder: Path) -> None:
    """A convolutional image tower of timm, text attention without a causal mask, no mean or std."""
    vision = {
        "timm_model_name": "test_efficientnet",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": SIDE,
    }
    preprocessing = {"mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "bilinear"}
    config = {"vision_cfg": vision, "custom_text": True}
    _save_open_clip(folder, config, preprocessing, no_causal_mask=True)


def _write_open_siglip(folder: Path) -> None:
    """Squashed images, a tokenizer of transformers and a bias."""
    from transformers import BertTokenizer

    words = sorted({word.strip("'%") for line in CORPUS for word in line.lower().split()})
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    folder.mkdir(parents=True, exist_ok=True)
    BertTokenizer({name: number for number, name in enumerate(names)}).save_pretrained(folder)
    preprocessing = {"resize_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3}
    _save_open_clip(
        folder,
        {"custom_text": True, "init_logit_bias": -10},
        preprocessing,
        vocab_size=len(names),
        no_causal_mask=True,
        pool_type="last",
        proj_bias=True,
        hf_tokenizer_name="some/tokenizer",
        tokenizer_kwargs={"clean": "canonicalize"},
    )


def _write_open_longest(folder: Path) -> None:
    """Images with a border."""
    _save_open_clip(folder, {}, {"resize_mode": "longest", "fill_color": 127})


FAMILIES: dict[str, Callable[[Path], None]] = {
    "clip": _write_clip,
    "siglip": _write_siglip,
    "siglip2": _write_siglip2,
    "chinese_clip": _write_chinese_clip,
    "altclip": _write_altclip,
    "open_clip": _write_open_clip,
    "mobile_clip": _write_mobile_clip,
    "open_siglip": _write_open_siglip,
    "open_longest": _write_open_longest,
}


def _square() -> dict[str, int]:
    return {"height": SIDE, "width": SIDE}


def _save(folder: Path, model: Any, processor: Any, tokenizer: Any) -> None:
    for part in (_with_distinct_features(model), processor, tokenizer):
        part.save_pretrained(folder)


def _with_distinct_features(model: torch.nn.Module) -> torch.nn.Module:
    """Enlarge the weights, since features of a fresh model differ little between inputs."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return model


def _save_open_clip(
    folder: Path,
    model_changes: dict[str, Any],
    preprocessing: dict[str, Any] | None = None,
    **text_changes: Any,
) -> None:
    import open_clip

    vision = {
        "image_size": SIDE,
        "layers": 2,
        "width": 32,
        "patch_size": 8,
        "head_width": 16,
    }
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    config = {
        "embed_dim": 24,
        "vision_cfg": vision,
        "text_cfg": {**text, **text_changes},
        **model_changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"model_cfg": config, "preprocess_cfg": preprocessing or {}}
    (folder / "open_clip_config.json").write_text(json.dumps(whole))
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")


def _byte_pairs(specials: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return a vocabulary of bytes and some random merges, with marked ends of words."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    generator = random.Random(0)
    merges: list[tuple[str, str]] = []
    ends = [f"{letter}</w>" for letter in letters]
    for word in sorted({word for line in CORPUS for word in line.lower().split()}):
        if word.isascii() and len(word) > 2 and generator.random() < 0.8:
            merges.append((word[0], word[1]))
    merges = list(dict.fromkeys(merges))
    pieces = [*letters, *ends, *dict.fromkeys(a + b for a, b in merges), *specials]
    return {piece: number for number, piece in enumerate(pieces)}, merges
