"""Drawing the people of :mod:`dualpath.datasets.synthetic.pedestrians`.

Lengths are fractions of the image's height. The image is half as wide as it is high.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from dualpath.datasets.synthetic.pedestrian_spec import Identity, ViewParams

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]

_SUPERSAMPLING = 3
_COLOURS: dict[str, Colour] = {
    "red": (200, 40, 40),
    "green": (45, 140, 60),
    "blue": (40, 80, 200),
    "yellow": (235, 205, 50),
    "purple": (125, 60, 175),
    "orange": (235, 130, 35),
    "pink": (240, 150, 185),
    "white": (240, 240, 240),
    "black": (30, 30, 34),
    "grey": (125, 125, 130),
}
_HAIR: dict[str, Colour] = {
    "black": (25, 20, 20),
    "brown": (95, 60, 35),
    "blond": (225, 195, 120),
    "grey": (170, 170, 175),
    "red": (165, 75, 35),
}
_SKINS: dict[str, Colour] = {
    "light": (245, 215, 190),
    "tan": (215, 170, 125),
    "brown": (155, 105, 70),
    "dark": (90, 60, 45),
}


def render_person(identity: Identity, view: ViewParams, size: int) -> Image.Image:
    """Draw a view of a person, an RGB image of (size / 2) x size pixels."""
    generator = np.random.default_rng(view.clutter)
    height = size * _SUPERSAMPLING
    scene = _background(generator, height)
    _Figure(scene, identity, view).draw()
    if view.hidden is not None:
        _hide(scene, view.hidden, generator)
    scene = scene.resize((size // 2, size), Image.Resampling.LANCZOS)
    if view.blur:
        scene = scene.filter(ImageFilter.GaussianBlur(view.blur * size))
    return _light(scene, view, generator)


def _background(generator: np.random.Generator, height: int) -> Image.Image:
    """Draw a wall and a ground with blocks and poles."""
    width = height // 2
    wall, ground = (generator.integers(70, 200, size=3) for _ in range(2))
    scene = Image.new("RGB", (width, height), _colour(wall))
    draw = ImageDraw.Draw(scene)
    horizon = generator.uniform(0.5, 0.8) * height
    draw.rectangle((0, horizon, width, height), _colour(ground))
    for _ in range(int(generator.integers(2, 9))):
        x, y = generator.uniform(0, width), generator.uniform(0, horizon)
        w, h = generator.uniform(0.03, 0.25, size=2) * height
        draw.rectangle((x, y, x + w, y + h), _colour(generator.integers(30, 235, size=3)))
    return scene


def _hide(scene: Image.Image, hidden: str, generator: np.random.Generator) -> None:
    """Draw an object before the feet (``"low"``) or before one side of the person."""
    width, height = scene.size
    draw, fill = ImageDraw.Draw(scene), _colour(generator.integers(40, 200, size=3))
    if hidden == "low":
        draw.rectangle((0, height * generator.uniform(0.74, 0.84), width, height), fill)
        return
    reach = width * generator.uniform(0.2, 0.38)
    box = (0, 0, reach, height) if generator.integers(2) else (width - reach, 0, width, height)
    draw.rectangle(box, fill)


def _light(scene: Image.Image, view: ViewParams, generator: np.random.Generator) -> Image.Image:
    """Change the brightness and the colour of the light, and add noise."""
    tint = 1 + 0.12 * view.warmth * np.array([1.0, 0.2, -1.0])
    pixels = np.asarray(scene, np.float32) * view.light * tint
    pixels += generator.normal(0, 5, size=pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8), "RGB")


def _colour(values: np.ndarray[tuple[int, ...], np.dtype[np.integer]]) -> Colour:
    red, green, blue = (int(value) for value in values)
    return red, green, blue


def _darker(colour: Colour, factor: float = 0.75) -> Colour:
    red, green, blue = (int(factor * value) for value in colour)
    return red, green, blue


class _Figure:
    """A person on a scene.

    Coordinates are fractions of the person's height: x from the middle, y from the top of the head.
    """

    def __init__(self, scene: Image.Image, identity: Identity, view: ViewParams) -> None:
        self._scene, self._identity, self._view = scene, identity, view
        self._draw = ImageDraw.Draw(scene)
        self._unit = view.scale * scene.height
        self._middle = scene.width / 2 + view.shift * scene.height
        self._top = scene.height * 0.97 - self._unit
        self._sideways = view.side in ("left", "right")
        self._heading = -1 if view.side == "left" else 1
        self._half = 0.115 * identity.build * (0.75 if self._sideways else 1.0)

    def draw(self) -> None:
        """Draw the person, from the back to the front."""
        bag_first = self._view.side == "front" or self._sideways
        if self._identity.bag == "backpack" and bag_first:
            self._backpack()
        self._legs()
        self._torso()
        self._arms()
        self._head()
        if self._identity.bag == "backpack" and not bag_first:
            self._backpack()
        if self._identity.bag in ("handbag", "shoulder bag"):
            self._carried_bag()

    def _box(self, left: float, top: float, right: float, bottom: float) -> Box:
        """Return a box in pixels."""
        u, x, y = self._unit, self._middle, self._top
        return x + left * u, y + top * u, x + right * u, y + bottom * u

    def _line(self, points: list[tuple[float, float]], width: float, fill: Colour) -> None:
        self._draw.line(
            self._to_pixels(points), fill, max(1, round(width * self._unit)), joint="curve"
        )

    def _legs(self) -> None:
        identity, skin = self._identity, _SKINS[self._identity.skin]
        cloth = _COLOURS[identity.lower_colour]
        reach = 0.09 * self._view.stride * (1.0 if self._sideways else 0.35)
        for side in (-1, 1):
            hip, foot = side * self._half * 0.45, side * self._half * 0.5 + side * reach
            knee = (hip + foot) / 2
            covered = [(hip, 0.5), (knee, 0.72), (foot, 0.95)]
            self._line(covered, 0.075, skin if identity.lower != "trousers" else cloth)
            if identity.lower == "shorts":
                self._line([(hip, 0.5), (knee, 0.7)], 0.09, cloth)
            toe = 0.035 * self._heading if self._sideways else 0.0
            shoe = self._box(foot - 0.042 + toe, 0.945, foot + 0.042 + toe, 1.0)
            self._draw.rounded_rectangle(shoe, 0.02 * self._unit, _COLOURS[identity.shoe_colour])
        if identity.lower == "skirt":
            wide = self._half + 0.05
            corners = [(-self._half, 0.47), (self._half, 0.47), (wide, 0.72), (-wide, 0.72)]
            self._draw.polygon(self._to_pixels(corners), cloth)
        else:
            self._draw.rectangle(self._box(-self._half, 0.46, self._half, 0.55), cloth)

    def _to_pixels(self, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(self._middle + x * self._unit, self._top + y * self._unit) for x, y in points]

    def _torso(self) -> None:
        identity = self._identity
        low = 0.66 if identity.upper == "coat" else 0.52
        box = self._box(-self._half, 0.18, self._half, low)
        left, top, right, bottom = (round(edge) for edge in box)
        garment = _garment(identity, (right - left, bottom - top), 0.045 * self._unit)
        mask = Image.new("L", garment.size, 0)
        ImageDraw.Draw(mask).rounded_rectangle(
            (0, 0, *garment.size), radius=0.04 * self._unit, fill=255
        )
        self._scene.paste(garment, (left, top), mask)
        opens = identity.upper in ("jacket", "coat") and self._view.side == "front"
        if opens:
            dark = _darker(_COLOURS[identity.upper_colour], 0.5)
            self._line([(0.0, 0.18), (0.0, low)], 0.012, dark)

    def _arms(self) -> None:
        identity = self._identity
        skin, sleeve = _SKINS[identity.skin], _darker(_COLOURS[identity.upper_colour], 0.88)
        swing = 0.1 * self._view.stride * (1.0 if self._sideways else 0.2)
        long = identity.upper in ("jacket", "coat")
        for side in (-1, 1):
            shoulder = side * self._half * (0.3 if self._sideways else 0.95)
            elbow = shoulder + side * (0.0 if self._sideways else 0.03) - side * swing / 2
            hand = elbow - side * swing / 2
            arm = [(shoulder, 0.21), (elbow, 0.35), (hand, 0.49)]
            self._line(arm, 0.05, sleeve if long else skin)
            if identity.upper == "t-shirt":
                self._line([(shoulder, 0.2), (elbow, 0.3)], 0.065, sleeve)
            self._draw.ellipse(self._box(hand - 0.025, 0.47, hand + 0.025, 0.52), skin)

    def _head(self) -> None:
        identity, side = self._identity, self._view.side
        hair = _HAIR[identity.hair_colour]
        if identity.hair_length == "long":
            shift = -0.02 * self._heading if self._sideways else 0.0
            self._draw.rounded_rectangle(
                self._box(-0.075 + shift, 0.03, 0.075 + shift, 0.25), 0.05 * self._unit, hair
            )
        face = hair if side == "back" else _SKINS[identity.skin]
        self._draw.rectangle(self._box(-0.025, 0.12, 0.025, 0.2), _SKINS[identity.skin])
        self._draw.ellipse(self._box(-0.06, 0.01, 0.06, 0.16), face)
        self._draw.pieslice(self._box(-0.064, 0.0, 0.064, 0.13), 180, 360, hair)
        if self._sideways:
            back = -0.064 if self._heading > 0 else 0.0
            self._draw.rectangle(self._box(back, 0.05, back + 0.064, 0.1), hair)
        if identity.hat is not None:
            self._hat(identity.hat, _COLOURS[identity.hat_colour])

    def _hat(self, hat: str, colour: Colour) -> None:
        self._draw.pieslice(self._box(-0.07, -0.03, 0.07, 0.13), 180, 360, colour)
        if hat == "sun hat":
            self._draw.ellipse(self._box(-0.125, 0.035, 0.125, 0.07), colour)
        elif hat == "cap" and self._view.side != "back":
            start = 0.0 if self._sideways else -0.06
            ends = sorted((start * self._heading, 0.12 * self._heading))
            if not self._sideways:
                ends = [-0.06, 0.06]
            self._draw.rectangle(self._box(ends[0], 0.045, ends[1], 0.065), _darker(colour))
        elif hat == "beanie":
            self._draw.ellipse(self._box(-0.02, -0.06, 0.02, -0.02), colour)
            self._draw.rectangle(self._box(-0.07, 0.035, 0.07, 0.06), _darker(colour))

    def _backpack(self) -> None:
        colour = _COLOURS[self._identity.bag_colour]
        if self._view.side == "front":
            for side in (-1, 1):  # the straps, of which the torso leaves the outer edge visible
                edge = side * (self._half + 0.02)
                self._line([(edge, 0.2), (edge, 0.42)], 0.03, colour)
            return
        centre = -0.13 * self._heading if self._sideways else 0.0
        half = 0.06 if self._sideways else 0.095
        box = self._box(centre - half, 0.2, centre + half, 0.45)
        self._draw.rounded_rectangle(box, 0.03 * self._unit, colour)
        pocket = self._box(centre - half * 0.6, 0.34, centre + half * 0.6, 0.42)
        self._draw.rounded_rectangle(pocket, 0.01 * self._unit, _darker(colour))

    def _carried_bag(self) -> None:
        colour = _COLOURS[self._identity.bag_colour]
        side = -1 if self._view.side == "back" else 1
        x = side * (self._half + 0.04)
        if self._identity.bag == "handbag":
            self._line([(x, 0.48), (x, 0.54)], 0.012, _darker(colour))
            box = self._box(x - 0.06, 0.54, x + 0.06, 0.64)
        else:
            self._line([(-side * self._half * 0.7, 0.19), (x, 0.48)], 0.02, _darker(colour))
            box = self._box(x - 0.06, 0.44, x + 0.05, 0.55)
        self._draw.rounded_rectangle(box, 0.015 * self._unit, colour)


def _garment(identity: Identity, size: tuple[int, int], step: float) -> Image.Image:
    """Draw the cloth of the upper garment; its pattern repeats every ``step`` pixels."""
    width, height = max(2, size[0]), max(2, size[1])
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    if identity.pattern == "striped":
        in_pattern = (y // step) % 2 == 1
    elif identity.pattern == "checked":
        in_pattern = ((x // step) + (y // step)) % 2 == 1
    elif identity.pattern == "dotted":
        from_centre = ((x % step) - step / 2) ** 2 + ((y % step) - step / 2) ** 2
        in_pattern = from_centre < (0.33 * step) ** 2
    else:
        in_pattern = np.zeros_like(x, dtype=bool)
    colour = np.array(_COLOURS[identity.upper_colour], np.uint8)
    pattern_colour = np.array(_COLOURS[identity.pattern_colour], np.uint8)
    return Image.fromarray(np.where(in_pattern[..., None], pattern_colour, colour), "RGB")
