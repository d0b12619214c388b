"""pedestrians: a seeded generator of people seen by several cameras, and described in words.

A set for language person retrieval without any real person in it. An identity is a body, clothes
and things that are carried; a view shows it in another pose, from another side, in another light,
before other clutter, blurred or partly hidden. A sentence tells some of what its view shows, so
that one sentence often fits several people, as with witnesses. Identities, not images, are
shared out over the splits, as in CUHK-PEDES.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from dualpath.data.manifest import write_manifest
from dualpath.datasets.synthetic.pedestrian_drawing import render_person
from dualpath.recipes.schema import SplitRecipe

SKINS = ("light", "tan", "brown", "dark")
HAIR_COLOURS = ("black", "brown", "blond", "grey", "red")
HAIR_LENGTHS = ("short", "long")
HATS = ("cap", "beanie", "sun hat")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "pink", "white", "black", "grey")
PATTERNS = ("plain", "striped", "checked", "dotted")
UPPERS = ("t-shirt", "jacket", "coat", "tank top")
LOWERS = ("trousers", "shorts", "skirt")
BAGS = ("backpack", "handbag", "shoulder bag")
SIDES = ("front", "back", "left", "right")
SPLIT = SplitRecipe(train=0.7, val=0.1, test=0.2)

_WORDS = {
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
_SIDE_WORDS = {
    "front": ("facing the camera", "seen from the front"),
    "back": ("seen from behind", "walking away"),
    "left": ("walking to the left", "heading left"),
    "right": ("walking to the right", "heading right"),
}


@dataclass(frozen=True)
class Identity:
    """What stays the same of a person from view to view."""

    skin: str
    hair_colour: str
    hair_length: str
    hat: str | None
    hat_colour: str
    upper: str
    upper_colour: str
    pattern: str
    pattern_colour: str
    lower: str
    lower_colour: str
    shoe_colour: str
    bag: str | None
    bag_colour: str
    build: float  # breadth of the body, 1 is the average


@dataclass(frozen=True)
class ViewParams:
    """What changes from view to view. Shares are of the image's height."""

    side: str
    stride: float  # -1 to 1, how far the legs are apart
    scale: float  # height of the person
    shift: float  # of the person from the middle
    light: float  # factor of brightness
    warmth: float  # -1 (blue) to 1 (yellow)
    blur: float  # radius, as a share
    hidden: str | None  # "low": an object before the feet, "side": before one side
    clutter: int  # seed of the background


def write_pedestrians(
    folder: Path,
    *,
    identities: int = 600,
    views: int = 4,
    captions: int = 2,
    size: int = 128,
    seed: int = 0,
    split: SplitRecipe = SPLIT,
    progress: Callable[[int], None] = lambda _: None,
) -> Path:
    """Write people as JPEG images with a manifest, and return the manifest's path.

    Args:
        identities: different people.
        views: images of each, 4 or more.
        captions: differently worded sentences an image, 2 or more.
        size: height of an image, pixels; it is half as wide.
        seed: the same seed writes the same files.
        split: shares of the identities in train, val and test.
    """
    generator = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = _splits(identities, split)
    rows = []
    for number, identity in enumerate(_draw_identities(generator, identities)):
        for view in range(views):
            sight = draw_view(generator)
            file_name = f"images/person-{number:05d}-{view}.jpg"
            image = render_person(identity, sight, size)
            image.save(folder / file_name, quality=88, subsampling=0)
            rows.append(
                {
                    "file_name": file_name,
                    "captions": describe(identity, sight, captions, generator),
                    "instance": f"person-{number:05d}",
                    "split": names[number],
                    "side": sight.side,
                    "upper": f"{identity.upper_colour} {identity.upper}",
                    "lower": f"{identity.lower_colour} {identity.lower}",
                }
            )
            progress(1)
    return write_manifest(folder, rows)


def _splits(identities: int, split: SplitRecipe) -> list[str]:
    train, val = round(identities * split.train), round(identities * split.val)
    return ["train"] * train + ["val"] * val + ["test"] * (identities - train - val)


def _draw_identities(generator: np.random.Generator, wanted: int) -> list[Identity]:
    """Draw people of whom no two have the same body, clothes and things."""
    drawn: dict[tuple[object, ...], Identity] = {}
    while len(drawn) < wanted:
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
    """Draw how a person is seen."""
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
    identity: Identity, sight: ViewParams, sentences: int, generator: np.random.Generator
) -> list[str]:
    """Tell what a view shows in so many different sentences."""
    told: dict[str, None] = {}
    while len(told) < sentences:
        told.setdefault(_with_articles(_sentence(identity, sight, generator)))
    return list(told)


def _sentence(identity: Identity, sight: ViewParams, generator: np.random.Generator) -> str:
    """The clothes, one of them perhaps without its details, and some of the rest."""
    worn = [_upper(identity, generator), _lower(identity, sight, generator)]
    rest = _rest(identity, sight, generator)
    kept = generator.permutation(len(rest))[: int(generator.integers(1, 4))]
    details = [rest[i] for i in sorted(kept)]
    if generator.random() < 0.3:
        worn.reverse()
    person = _pick(("a person", "someone", "a pedestrian", "this person"), generator)
    wears = _pick(("wearing", "in", "dressed in"), generator)
    form = int(generator.integers(3))
    if form == 0:
        return f"{person} {wears} {worn[0]} and {worn[1]}, {', '.join(details)}"
    if form == 1:
        return f"{person} {details[0]}, {wears} {', '.join([' and '.join(worn), *details[1:]])}"
    wears = _pick(("wears", "has on"), generator)
    return f"{person} {wears} {worn[0]} with {worn[1]}, {' and '.join(details)}"


def _with_articles(sentence: str) -> str:
    return sentence.replace("a orange", "an orange")


def _upper(identity: Identity, generator: np.random.Generator) -> str:
    garment, colour = _say(identity.upper, generator), _say(identity.upper_colour, generator)
    if identity.pattern == "plain" or generator.random() < 0.2:
        return f"a {colour} {garment}"
    pattern = _say(identity.pattern, generator)
    if generator.random() < 0.5:
        return f"a {pattern} {colour} and {_say(identity.pattern_colour, generator)} {garment}"
    return f"a {pattern} {colour} {garment}"


def _lower(identity: Identity, sight: ViewParams, generator: np.random.Generator) -> str:
    colour, garment = _say(identity.lower_colour, generator), _say(identity.lower, generator)
    article = "a " if identity.lower == "skirt" else ""
    lower = f"{article}{colour} {garment}"
    if sight.hidden != "low" and generator.random() < 0.4:
        lower += f" and {_say(identity.shoe_colour, generator)} shoes"
    return lower


def _rest(identity: Identity, sight: ViewParams, generator: np.random.Generator) -> list[str]:
    hair = f"{_say(identity.hair_colour, generator)} hair"
    told = [
        f"with {identity.hair_length} {hair}" if generator.random() < 0.7 else f"with {hair}",
        f"with {identity.skin} skin",
        _say(sight.side, generator, _SIDE_WORDS),
    ]
    if identity.hat is not None:
        hat = f"a {_say(identity.hat_colour, generator)} {_say(identity.hat, generator)}"
        told.append(_pick((f"with {hat}", f"{hat} on the head"), generator))
    if identity.bag is not None:
        bag = f"a {_say(identity.bag_colour, generator)} {_say(identity.bag, generator)}"
        told.append(_pick((f"carrying {bag}", f"with {bag}"), generator))
    elif generator.random() < 0.3:
        told.append(_pick(("without a bag", "carrying nothing"), generator))
    return told


def _say(
    name: str, generator: np.random.Generator, words: Mapping[str, tuple[str, ...]] = _WORDS
) -> str:
    return _pick(words.get(name, (name,)), generator)


def _pick(choices: Sequence[str], generator: np.random.Generator) -> str:
    return choices[int(generator.integers(len(choices)))]
