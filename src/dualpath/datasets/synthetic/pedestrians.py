"""Draws pedestrians: people seen by several cameras and described in sentences, by a seed.

This data set is for person search by text and shows no real person. An identity is a body, clothes
and accessories. A view shows it in another pose, from another side, in other light and before
another background, perhaps blurred or partly hidden. A caption names some of what the view shows,
so a caption often fits several people, as descriptions by witnesses do. As in CUHK-PEDES, all
images of an identity are in one split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np

from dualpath.data.manifest import write_manifest
from dualpath.datasets.synthetic.pedestrian_drawing import render_person
from dualpath.datasets.synthetic.pedestrian_spec import (
    BAGS,
    COLOURS,
    HAIR_COLOURS,
    HAIR_LENGTHS,
    HATS,
    LOWERS,
    PATTERNS,
    SIDES,
    SKINS,
    UPPERS,
    Identity,
    ViewParams,
)
from dualpath.recipes.schema import SplitRecipe
from dualpath.types import Progress, no_progress

SPLIT = SplitRecipe(train=0.7, val=0.1, test=0.2)

_SYNONYMS = {
    "t-shirt": ("t-shirt", "shirt", "top"),
    "jacket": ("jacket", "zipped jacket"),
    "coat": ("coat", "long coat"),
    "tank top": ("tank top", "sleeveless top"),
    "trousers": ("trousers", "pants", "long trousers"),
    "shorts": ("shorts", "short pants"),
    "backpack": ("backpack", "rucksack"),
    "handbag": ("handbag", "bag in the hand"),
    "shoulder bag": ("shoulder bag", "bag over the shoulder"),
    "cap": ("cap", "baseball cap"),
    "beanie": ("beanie", "woollen hat"),
    "sun hat": ("sun hat", "hat with a brim"),
    "striped": ("striped", "stripy"),
    "checked": ("checked", "checkered"),
    "dotted": ("dotted", "spotted"),
    "grey": ("grey", "gray"),
    "purple": ("purple", "violet"),
    "blond": ("blond", "fair"),
}
_SIDE_PHRASES = {
    "front": ("facing the camera", "seen from the front"),
    "back": ("seen from behind", "walking away"),
    "left": ("walking to the left", "heading left"),
    "right": ("walking to the right", "heading right"),
}


def write_pedestrians(
    folder: Path,
    *,
    identities: int = 600,
    views: int = 4,
    captions: int = 2,
    size: int = 128,
    seed: int = 0,
    split: SplitRecipe = SPLIT,
    progress: Progress = no_progress,
) -> Path:
    """Write JPEG images of people with a manifest, and return the path of the manifest.

    Args:
        identities: number of people.
        views: images per person.
        captions: different sentences per image.
        size: height of an image in pixels; its width is half of that.
        seed: the same seed writes the same files.
        split: shares of the identities in train, val and test.
        progress: called with the number of images written since the last call.
    """
    generator = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    splits = _splits(identities, split)
    rows = []
    for number, identity in enumerate(_draw_identities(generator, identities)):
        for view_number in range(views):
            view = draw_view(generator)
            file_name = f"images/person-{number:05d}-{view_number}.jpg"
            image = render_person(identity, view, size)
            image.save(folder / file_name, quality=88, subsampling=0)
            rows.append(
                {
                    "file_name": file_name,
                    "captions": describe(identity, view, captions, generator),
                    "instance": f"person-{number:05d}",
                    "split": splits[number],
                    "side": view.side,
                    "upper": f"{identity.upper_colour} {identity.upper}",
                    "lower": f"{identity.lower_colour} {identity.lower}",
                }
            )
            progress(1)
    return write_manifest(folder, rows)


def _splits(identities: int, split: SplitRecipe) -> list[str]:
    train, val = round(identities * split.train), round(identities * split.val)
    return ["train"] * train + ["val"] * val + ["test"] * (identities - train - val)


def _draw_identities(generator: np.random.Generator, count: int) -> list[Identity]:
    """Draw people that differ from each other in more than the build."""
    drawn: dict[tuple[object, ...], Identity] = {}
    while len(drawn) < count:
        identity = _draw_identity(generator)
        drawn.setdefault(astuple(identity)[:-1], identity)
    return list(drawn.values())


def _draw_identity(generator: np.random.Generator) -> Identity:
    upper_colour, pattern_colour = generator.choice(COLOURS, size=2, replace=False)
    plain = generator.random() < 0.5
    return Identity(
        skin=_pick(SKINS, generator),
        hair_colour=_pick(HAIR_COLOURS, generator),
        hair_length=_pick(HAIR_LENGTHS, generator),
        hat=_pick(HATS, generator) if generator.random() < 0.4 else None,
        hat_colour=_pick(COLOURS, generator),
        upper=_pick(UPPERS, generator),
        upper_colour=str(upper_colour),
        pattern="plain" if plain else _pick(PATTERNS[1:], generator),
        pattern_colour=str(pattern_colour),
        lower=_pick(LOWERS, generator),
        lower_colour=_pick(COLOURS, generator),
        shoe_colour=_pick(COLOURS, generator),
        bag=_pick(BAGS, generator) if generator.random() < 0.6 else None,
        bag_colour=_pick(COLOURS, generator),
        build=float(generator.uniform(0.85, 1.2)),
    )


def draw_view(generator: np.random.Generator) -> ViewParams:
    """Draw the parameters of a view."""
    hidden = generator.random()
    return ViewParams(
        side=_pick(SIDES, generator),
        stride=float(generator.uniform(-1, 1)),
        scale=float(generator.uniform(0.78, 0.92)),
        shift=float(generator.uniform(-0.05, 0.05)),
        light=float(generator.uniform(0.6, 1.25)),
        warmth=float(generator.uniform(-1, 1)),
        blur=float(generator.choice([0.0, 0.0, 0.006, 0.012])),
        hidden="low" if hidden < 0.15 else "side" if hidden < 0.25 else None,
        clutter=int(generator.integers(2**31)),
    )


def describe(
    identity: Identity, view: ViewParams, count: int, generator: np.random.Generator
) -> list[str]:
    """Return ``count`` different captions of a view."""
    captions: dict[str, None] = {}
    while len(captions) < count:
        captions.setdefault(_fix_articles(_caption(identity, view, generator)))
    return list(captions)


def _caption(identity: Identity, view: ViewParams, generator: np.random.Generator) -> str:
    """Return a sentence with both garments and one to three other details."""
    garments = [_upper_phrase(identity, generator), _lower_phrase(identity, view, generator)]
    phrases = _detail_phrases(identity, view, generator)
    chosen = generator.permutation(len(phrases))[: int(generator.integers(1, 4))]
    details = [phrases[i] for i in sorted(chosen)]
    if generator.random() < 0.3:
        garments.reverse()
    person = _pick(("a person", "someone", "a pedestrian", "this person"), generator)
    wears = _pick(("wearing", "in", "dressed in"), generator)
    form = int(generator.integers(3))
    if form == 0:
        return f"{person} {wears} {garments[0]} and {garments[1]}, {', '.join(details)}"
    if form == 1:
        rest = ", ".join([" and ".join(garments), *details[1:]])
        return f"{person} {details[0]}, {wears} {rest}"
    wears = _pick(("wears", "has on"), generator)
    return f"{person} {wears} {garments[0]} with {garments[1]}, {' and '.join(details)}"


def _fix_articles(sentence: str) -> str:
    return sentence.replace("a orange", "an orange")


def _upper_phrase(identity: Identity, generator: np.random.Generator) -> str:
    garment = _synonym(identity.upper, generator)
    colour = _synonym(identity.upper_colour, generator)
    if identity.pattern == "plain" or generator.random() < 0.2:
        return f"a {colour} {garment}"
    pattern = _synonym(identity.pattern, generator)
    if generator.random() < 0.5:
        return f"a {pattern} {colour} and {_synonym(identity.pattern_colour, generator)} {garment}"
    return f"a {pattern} {colour} {garment}"


def _lower_phrase(identity: Identity, view: ViewParams, generator: np.random.Generator) -> str:
    colour = _synonym(identity.lower_colour, generator)
    garment = _synonym(identity.lower, generator)
    article = "a " if identity.lower == "skirt" else ""
    lower = f"{article}{colour} {garment}"
    if view.hidden != "low" and generator.random() < 0.4:
        lower += f" and {_synonym(identity.shoe_colour, generator)} shoes"
    return lower


def _detail_phrases(
    identity: Identity, view: ViewParams, generator: np.random.Generator
) -> list[str]:
    hair = f"{_synonym(identity.hair_colour, generator)} hair"
    phrases = [
        f"with {identity.hair_length} {hair}" if generator.random() < 0.7 else f"with {hair}",
        f"with {identity.skin} skin",
        _synonym(view.side, generator, _SIDE_PHRASES),
    ]
    if identity.hat is not None:
        hat = f"a {_synonym(identity.hat_colour, generator)} {_synonym(identity.hat, generator)}"
        phrases.append(_pick((f"with {hat}", f"{hat} on the head"), generator))
    if identity.bag is not None:
        bag = f"a {_synonym(identity.bag_colour, generator)} {_synonym(identity.bag, generator)}"
        phrases.append(_pick((f"carrying {bag}", f"with {bag}"), generator))
    elif generator.random() < 0.3:
        phrases.append(_pick(("without a bag", "carrying nothing"), generator))
    return phrases


def _synonym(
    name: str,
    generator: np.random.Generator,
    synonyms: Mapping[str, tuple[str, ...]] = _SYNONYMS,
) -> str:
    return _pick(synonyms.get(name, (name,)), generator)


def _pick(choices: Sequence[str], generator: np.random.Generator) -> str:
    return choices[int(generator.integers(len(choices)))]
