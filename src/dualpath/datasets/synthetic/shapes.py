"""shapes: a seeded generator of captioned scenes, for demos and tests.

A scene is two objects in a relation ("a small red circle to the left of a big blue square") or a
number of equal objects ("three little green stars"), over a noisy background. What is held out
are combinations: two coloured shapes that stand together in a test scene never do in a training
scene, and a number of a coloured shape that is counted in one is not counted in the other, while
every word is seen in training. All captions of a scene tell the whole of it, in other words.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from dualpath.data.manifest import write_manifest
from dualpath.recipes.schema import SplitRecipe

COLOURS = {
    "red": (214, 40, 40),
    "green": (46, 160, 67),
    "blue": (38, 84, 224),
    "yellow": (244, 211, 54),
    "purple": (139, 61, 189),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "star", "cross")
SIZES = {"small": 0.13, "big": 0.22}  # radius, as a share of the image
NUMBERS = {2: "two", 3: "three", 4: "four"}
_SIZE_WORDS = {"small": ("small", "little", "tiny"), "big": ("big", "large", "huge")}
_SHAPE_WORDS = {"circle": ("circle", "disc"), "cross": ("cross", "plus sign")}
_RELATIONS = {"left": "right", "right": "left", "above": "below", "below": "above"}
_PHRASES = {
    "left": ("to the left of", "on the left side of"),
    "right": ("to the right of", "on the right side of"),
    "above": ("above", "higher than", "over"),
    "below": ("below", "lower than", "under"),
}
SPLIT = SplitRecipe(train=0.9, val=0.05, test=0.05)
_HELD_OUT = 0.1  # of the combinations, for val and for test each
_SHADE = 95
_SUPERSAMPLING = 2


@dataclass(frozen=True)
class SceneObject:
    """An object of a scene."""

    size: str
    colour: str
    shape: str


@dataclass(frozen=True)
class Scene:
    """Two things of which the first is ``relation`` of the second, or ``count`` equal things."""

    objects: tuple[SceneObject, ...]
    relation: str | None
    count: int


def write_shapes(
    folder: Path,
    *,
    scenes: int = 3200,
    captions: int = 5,
    size: int = 96,
    seed: int = 0,
    split: SplitRecipe = SPLIT,
    progress: Callable[[int], None] = lambda _: None,
) -> Path:
    """Write scenes as PNG images with a manifest, and return the manifest's path.

    Args:
        scenes: number of images.
        captions: different sentences an image.
        size: side of an image, pixels.
        seed: the same seed writes the same files.
        split: shares of the images in train, val and test.
    """
    generator = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (scene, name) in enumerate(_draw_scenes(generator, scenes, split)):
        file_name = f"images/scene-{number:05d}.png"
        render_scene(scene, size, generator).save(folder / file_name)
        rows.append(
            {
                "file_name": file_name,
                "captions": describe(scene, captions, generator),
                "split": name,
                "kind": "count" if scene.relation is None else "relation",
                "colours": [thing.colour for thing in scene.objects],
                "shapes": [thing.shape for thing in scene.objects],
                "count": scene.count,
            }
        )
        progress(1)
    return write_manifest(folder, rows)


def _draw_scenes(
    generator: np.random.Generator, scenes: int, split: SplitRecipe
) -> Iterator[tuple[Scene, str]]:
    """Draw scenes with their splits: combinations are shared out first, no scene comes twice."""
    coloured = list(itertools.product(COLOURS, SHAPES))
    pairs = [(0, *pair) for pair in itertools.combinations(coloured, 2)]
    counts = [(count, thing) for count in NUMBERS for thing in coloured]
    shares: dict[str, list[tuple[Any, ...]]] = {"train": [], "val": [], "test": []}
    for combinations in (pairs, counts):
        order = generator.permutation(len(combinations))
        cuts = (np.array([1 - 2 * _HELD_OUT, 1 - _HELD_OUT]) * len(order)).round().astype(int)
        for name, part in zip(shares, np.split(order, cuts), strict=True):
            shares[name] += [combinations[i] for i in part]
    fractions = (split.train, split.val, split.test)
    ends = np.round(np.cumsum(fractions) * scenes).astype(int)
    for name, wanted in zip(shares, np.diff(ends, prepend=0), strict=True):
        seen: set[Scene] = set()
        limit = 100 * (wanted + 1)
        while len(seen) < wanted and limit:
            limit -= 1
            combination = shares[name][generator.integers(len(shares[name]))]
            scene = _draw_scene(combination, generator)
            if scene not in seen:
                seen.add(scene)
                yield scene, name
        if len(seen) < wanted:
            raise ValueError(f"there are not {wanted} different scenes for split '{name}'")


def _draw_scene(combination: tuple[Any, ...], generator: np.random.Generator) -> Scene:
    count, *coloured = combination
    objects = [SceneObject(str(generator.choice(list(SIZES))), *thing) for thing in coloured]
    if count:
        return Scene((SceneObject("small", *coloured[0]),), None, count)
    # The same scene can be told from either thing; one order and two relations name it once.
    relation = str(generator.choice(["left", "above"]))
    first, second = generator.permutation(2)
    return Scene((objects[first], objects[second]), relation, 2)


def describe(scene: Scene, sentences: int, generator: np.random.Generator) -> list[str]:
    """Tell a scene in so many different sentences."""
    tell = _tell_count if scene.relation is None else _tell_pair
    told: dict[str, None] = {}
    while len(told) < sentences:
        told.setdefault(tell(scene, generator))
    return list(told)


def _tell_count(scene: Scene, generator: np.random.Generator) -> str:
    thing, number = scene.objects[0], NUMBERS[scene.count]
    plural = _object_words(thing, generator) + "s"
    plural = plural.replace("crosss", "crosses")
    forms = (
        f"{number} {plural}",
        f"there are {number} {plural}",
        f"a picture of {number} {plural}",
        f"{number} {plural} are scattered around",
        f"a group of {number} {plural}",
    )
    return _pick(forms, generator)


def _tell_pair(scene: Scene, generator: np.random.Generator) -> str:
    (first, second), relation = scene.objects, str(scene.relation)
    if generator.integers(2):
        first, second, relation = second, first, _RELATIONS[relation]
    one, other = _object_words(first, generator), _object_words(second, generator)
    phrase = _pick(_PHRASES[relation], generator)
    back = _pick(_PHRASES[_RELATIONS[relation]], generator)
    forms = (
        f"a {one} {phrase} a {other}",
        f"there is a {one} {phrase} a {other}",
        f"a {other} with a {one} {phrase} it",
        f"{phrase} a {other} sits a {one}",
        f"a {one} is {phrase} a {other}",
        f"the {other} is {back} the {one}",
    )
    return _pick(forms, generator)


def _object_words(thing: SceneObject, generator: np.random.Generator) -> str:
    size = _pick(_SIZE_WORDS[thing.size], generator)
    shape = _pick(_SHAPE_WORDS.get(thing.shape, (thing.shape,)), generator)
    return f"{size} {thing.colour} {shape}"


def _pick(choices: Sequence[str], generator: np.random.Generator) -> str:
    return choices[int(generator.integers(len(choices)))]


def render_scene(scene: Scene, size: int, generator: np.random.Generator) -> Image.Image:
    """Draw a scene, RGB, size x size pixels."""
    side = size * _SUPERSAMPLING
    # The same shade everywhere: a network that can tell scenes by it learns nothing of shapes.
    noise = generator.normal(_SHADE, 8, size=(12, 12, 3))
    background = Image.fromarray(noise.clip(0, 255).astype(np.uint8), "RGB")
    image = background.resize((side, side), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    for thing, (x, y) in _places(scene, generator):
        radius = SIZES[thing.size] * side * generator.uniform(0.95, 1.05)
        _draw_shape(draw, thing.shape, (x * side, y * side), radius, COLOURS[thing.colour])
    return image.resize((size, size), Image.Resampling.LANCZOS)


def _places(
    scene: Scene, generator: np.random.Generator
) -> list[tuple[SceneObject, tuple[float, float]]]:
    """Give each object a centre, in shares of the image, so that none overlaps another."""
    if scene.relation is None:
        cells = generator.permutation(list(itertools.product((0.2, 0.5, 0.8), repeat=2)))
        jitter = generator.uniform(-0.03, 0.03, size=(scene.count, 2))
        centres = cells[: scene.count] + jitter
        return [(scene.objects[0], (float(x), float(y))) for x, y in centres]
    across, aside = generator.uniform(0.24, 0.28), generator.uniform(0.4, 0.6, size=2)
    ends = (across, 1 - across)
    if scene.relation == "left":
        centres = np.array([(ends[0], aside[0]), (ends[1], aside[1])])
    else:
        centres = np.array([(aside[0], ends[0]), (aside[1], ends[1])])
    return [
        (thing, (float(x), float(y))) for thing, (x, y) in zip(scene.objects, centres, strict=True)
    ]


def _draw_shape(
    draw: ImageDraw.ImageDraw,
    shape: str,
    centre: tuple[float, float],
    radius: float,
    fill: tuple[int, ...],
) -> None:
    x, y = centre
    if shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill)
        return
    if shape == "square":
        half = radius * 0.88
        draw.rectangle((x - half, y - half, x + half, y + half), fill)
        return
    if shape == "cross":
        arm = radius / 3
        draw.rectangle((x - radius, y - arm, x + radius, y + arm), fill)
        draw.rectangle((x - arm, y - radius, x + arm, y + radius), fill)
        return
    points = 3 if shape == "triangle" else 10
    corners = []
    for corner in range(points):
        reach = radius * (0.42 if shape == "star" and corner % 2 else 1.1)
        angle = 2 * math.pi * corner / points - math.pi / 2
        corners.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    draw.polygon(corners, fill)
