"""Draws shapes: scenes of coloured shapes with captions, by a seed, for demos and tests.

A scene shows two objects in a relation ("a small red circle to the left of a big blue square"), or
several equal objects ("three little green stars"), over a noisy background.

The test measures new combinations: no pair of coloured shapes, and no number of a coloured shape,
is in two splits, but every word occurs in training. All captions of a scene describe it completely,
in different words.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from dualpath.data.manifest import write_manifest
from dualpath.errors import DatasetError
from dualpath.recipes.schema import SplitRecipe
from dualpath.types import Progress, no_progress

COLOURS = {
    "red": (214, 40, 40),
    "green": (46, 160, 67),
    "blue": (38, 84, 224),
    "yellow": (244, 211, 54),
    "purple": (139, 61, 189),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "star", "cross")
SIZES = {"small": 0.13, "big": 0.22}  # radius, as a fraction of the image
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
_HELD_OUT = 0.1  # share of the combinations in val, and in test
_BACKGROUND = 95  # mean brightness
_SUPERSAMPLING = 2

# A number (0 for a relation) and one or two pairs of colour and shape.
Combination = tuple[Any, ...]


@dataclass(frozen=True)
class SceneObject:
    """An object of a scene, by names of :data:`SIZES`, :data:`COLOURS` and :data:`SHAPES`."""

    size: str
    colour: str
    shape: str


@dataclass(frozen=True)
class Scene:
    """Two objects in a relation, or several equal objects.

    Attributes:
        objects: two objects, or one that is repeated.
        relation: ``"left"`` or ``"above"``: the first object is there, seen from the second. None:
            the objects are equal.
        count: number of objects.
    """

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
    progress: Progress = no_progress,
) -> Path:
    """Write scenes as PNG images with a manifest, and return the path of the manifest.

    Args:
        scenes: number of images.
        captions: different sentences per image.
        size: pixels per side of an image.
        seed: the same seed writes the same files.
        split: shares of the images in train, val and test.
        progress: called with the number of images written since the last call.

    Raises:
        DatasetError: there are fewer different scenes than a split needs.
    """
    generator = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (scene, split_name) in enumerate(_draw_scenes(generator, scenes, split)):
        file_name = f"images/scene-{number:05d}.png"
        render_scene(scene, size, generator).save(folder / file_name)
        rows.append(
            {
                "file_name": file_name,
                "captions": describe(scene, captions, generator),
                "split": split_name,
                "kind": "count" if scene.relation is None else "relation",
                "colours": [item.colour for item in scene.objects],
                "shapes": [item.shape for item in scene.objects],
                "count": scene.count,
            }
        )
        progress(1)
    return write_manifest(folder, rows)


def _draw_scenes(
    generator: np.random.Generator, scenes: int, split: SplitRecipe
) -> Iterator[tuple[Scene, str]]:
    """Yield different scenes with the name of their split."""
    combinations = _split_combinations(generator)
    shares = (split.train, split.val, split.test)
    ends = np.round(np.cumsum(shares) * scenes).astype(int)
    for (name, choices), count in zip(combinations.items(), np.diff(ends, prepend=0), strict=True):
        seen: set[Scene] = set()
        attempts = 100 * (count + 1)
        while len(seen) < count and attempts:
            attempts -= 1
            scene = _draw_scene(choices[generator.integers(len(choices))], generator)
            if scene not in seen:
                seen.add(scene)
                yield scene, name
        if len(seen) < count:
            raise DatasetError(
                f"split '{name}' has fewer than {count:,} different scenes; choose fewer scenes"
            )


def _split_combinations(generator: np.random.Generator) -> dict[str, list[Combination]]:
    """Divide all combinations between the splits."""
    coloured = list(itertools.product(COLOURS, SHAPES))
    pairs: list[Combination] = [(0, *pair) for pair in itertools.combinations(coloured, 2)]
    counts: list[Combination] = [(count, pair) for count in NUMBERS for pair in coloured]
    of_split: dict[str, list[Combination]] = {"train": [], "val": [], "test": []}
    for combinations in (pairs, counts):
        order = generator.permutation(len(combinations))
        cuts = (np.array([1 - 2 * _HELD_OUT, 1 - _HELD_OUT]) * len(order)).round().astype(int)
        for name, part in zip(of_split, np.split(order, cuts), strict=True):
            of_split[name] += [combinations[i] for i in part]
    return of_split


def _draw_scene(combination: Combination, generator: np.random.Generator) -> Scene:
    count, *coloured = combination
    objects = [SceneObject(str(generator.choice(list(SIZES))), *pair) for pair in coloured]
    if count:
        return Scene((SceneObject("small", *coloured[0]),), None, count)
    # "a left of b" is the same scene as "b right of a", so two of the four relations are enough.
    relation = str(generator.choice(["left", "above"]))
    first, second = generator.permutation(2)
    return Scene((objects[first], objects[second]), relation, 2)


def describe(scene: Scene, count: int, generator: np.random.Generator) -> list[str]:
    """Return ``count`` different captions of a scene."""
    caption = _count_caption if scene.relation is None else _relation_caption
    captions: dict[str, None] = {}
    while len(captions) < count:
        captions.setdefault(caption(scene, generator))
    return list(captions)


def _count_caption(scene: Scene, generator: np.random.Generator) -> str:
    number = NUMBERS[scene.count]
    plural = _object_phrase(scene.objects[0], generator) + "s"
    plural = plural.replace("crosss", "crosses")
    forms = (
        f"{number} {plural}",
        f"there are {number} {plural}",
        f"a picture of {number} {plural}",
        f"{number} {plural} are scattered around",
        f"a group of {number} {plural}",
    )
    return _pick(forms, generator)


def _relation_caption(scene: Scene, generator: np.random.Generator) -> str:
    (first, second), relation = scene.objects, str(scene.relation)
    if generator.integers(2):
        first, second, relation = second, first, _RELATIONS[relation]
    one, other = _object_phrase(first, generator), _object_phrase(second, generator)
    phrase = _pick(_PHRASES[relation], generator)
    inverse = _pick(_PHRASES[_RELATIONS[relation]], generator)
    forms = (
        f"a {one} {phrase} a {other}",
        f"there is a {one} {phrase} a {other}",
        f"a {other} with a {one} {phrase} it",
        f"{phrase} a {other} sits a {one}",
        f"a {one} is {phrase} a {other}",
        f"the {other} is {inverse} the {one}",
    )
    return _pick(forms, generator)


def _object_phrase(item: SceneObject, generator: np.random.Generator) -> str:
    size = _pick(_SIZE_WORDS[item.size], generator)
    shape = _pick(_SHAPE_WORDS.get(item.shape, (item.shape,)), generator)
    return f"{size} {item.colour} {shape}"


def _pick(choices: Sequence[str], generator: np.random.Generator) -> str:
    return choices[int(generator.integers(len(choices)))]


def render_scene(scene: Scene, size: int, generator: np.random.Generator) -> Image.Image:
    """Draw a scene, an RGB image of size x size pixels."""
    side = size * _SUPERSAMPLING
    # The mean is the same in all scenes, or a network could distinguish them by the background.
    noise = generator.normal(_BACKGROUND, 8, size=(12, 12, 3))
    background = Image.fromarray(noise.clip(0, 255).astype(np.uint8), "RGB")
    image = background.resize((side, side), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    for item, (x, y) in _place_objects(scene, generator):
        radius = SIZES[item.size] * side * generator.uniform(0.95, 1.05)
        _draw_shape(draw, item.shape, (x * side, y * side), radius, COLOURS[item.colour])
    return image.resize((size, size), Image.Resampling.LANCZOS)


def _place_objects(
    scene: Scene, generator: np.random.Generator
) -> list[tuple[SceneObject, tuple[float, float]]]:
    """Return each object with its centre, in fractions of the image, so that none overlap."""
    if scene.relation is None:
        cells = generator.permutation(list(itertools.product((0.2, 0.5, 0.8), repeat=2)))
        jitter = generator.uniform(-0.03, 0.03, size=(scene.count, 2))
        centres = cells[: scene.count] + jitter
        return [(scene.objects[0], (float(x), float(y))) for x, y in centres]
    # "along" is the axis of the relation, and "across" the other one.
    along, across = generator.uniform(0.24, 0.28), generator.uniform(0.4, 0.6, size=2)
    centres = np.array([(along, across[0]), (1 - along, across[1])])
    if scene.relation == "above":
        centres = centres[:, ::-1]
    return [
        (item, (float(x), float(y))) for item, (x, y) in zip(scene.objects, centres, strict=True)
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
