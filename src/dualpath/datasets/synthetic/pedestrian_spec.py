"""The types of the drawn pedestrians: identities, views of them, and the values that they take."""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Identity:
    """What is the same in all views of a person.

    Attributes:
        hat, bag: None: the person has none; ``hat_colour`` or ``bag_colour`` is not used.
        pattern: of the upper garment, in ``pattern_colour`` over ``upper_colour``.
        build: width of the body; 1 is the average.
    """

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
    build: float


@dataclass(frozen=True)
class ViewParams:
    """What differs between the views of a person. Lengths are fractions of the image's height.

    Attributes:
        side: of the person that the camera sees, one of :data:`SIDES`.
        stride: distance between the feet, -1 to 1; the sign is the foot in front.
        scale: height of the person.
        shift: distance of the person from the middle, to the right.
        light: factor of the brightness.
        warmth: colour of the light, -1 (blue) to 1 (yellow).
        blur: radius of the blur.
        hidden: ``"low"``: an object hides the feet, ``"side"``: an object hides one side.
        clutter: seed of the background.
    """

    side: str
    stride: float
    scale: float
    shift: float
    light: float
    warmth: float
    blur: float
    hidden: str | None
    clutter: int
