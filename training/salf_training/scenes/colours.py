"""Colours of drawn things: a small palette with jitter, so that no object owns a colour."""

from collections.abc import Collection, Sequence
from typing import Final, TypeAlias

from numpy.random import Generator

Colour: TypeAlias = tuple[int, int, int]
"""Red, green and blue, each 0 to 255."""

PALETTE: Final[dict[str, Colour]] = {
    "red": (212, 60, 54),
    "orange": (238, 136, 56),
    "yellow": (247, 204, 62),
    "lime": (154, 194, 84),
    "green": (70, 148, 92),
    "teal": (58, 160, 160),
    "sky": (96, 170, 222),
    "blue": (58, 96, 184),
    "violet": (128, 92, 178),
    "pink": (234, 134, 164),
    "white": (242, 240, 232),
    "grey": (156, 160, 170),
    "brown": (146, 104, 74),
    "charcoal": (76, 80, 94),
}
WARM_REDS: Final = ("red", "orange", "pink", "brown")
"""What a person might call red: left out where the attribute "red" is off."""

WHITE: Final[Colour] = (246, 245, 240)
INK: Final[Colour] = (48, 46, 58)
GLASS: Final[Colour] = (196, 226, 238)
LAMPLIGHT: Final[Colour] = (255, 214, 92)
WOOD: Final[Colour] = (132, 92, 62)
JITTER: Final = 14


def chance(rng: Generator, probability: float) -> bool:
    """True with the given probability, in [0, 1]."""
    return bool(rng.random() < probability)


def pick(rng: Generator, *, without: Collection[str] = ()) -> str:
    """Draw the name of a palette colour, none of ``without``."""
    names = [name for name in PALETTE if name not in without]
    return names[int(rng.integers(len(names)))]


def tone(rng: Generator, name: str) -> Colour:
    """The palette colour ``name``, each channel moved by up to ``JITTER``."""
    red, green, blue = (int(step) for step in rng.integers(-JITTER, JITTER + 1, 3))
    base = PALETTE[name]
    return clip((base[0] + red, base[1] + green, base[2] + blue))


def paint(rng: Generator, *, without: Collection[str] = ()) -> Colour:
    """A jittered palette colour, none of ``without``."""
    return tone(rng, pick(rng, without=without))


def two_paints(rng: Generator) -> tuple[Colour, Colour]:
    """Two colours that are easy to tell apart: one is white half of the time."""
    first = pick(rng, without=("white",))
    if chance(rng, 0.5):
        return tone(rng, first), tone(rng, "white")
    return tone(rng, first), tone(rng, pick(rng, without=(first,)))


def one_of(rng: Generator, colours: Sequence[Colour]) -> Colour:
    """One of the given colours, each as likely."""
    return colours[int(rng.integers(len(colours)))]


def lighter(colour: Colour, amount: float = 0.25) -> Colour:
    """``colour`` moved towards white by ``amount`` in [0, 1]."""
    return mix(colour, (255, 255, 255), amount)


def darker(colour: Colour, amount: float = 0.25) -> Colour:
    """``colour`` moved towards a dark blue by ``amount`` in [0, 1]; bluish shade looks less dirty than grey."""
    return mix(colour, (20, 20, 44), amount)


def mix(first: Colour, second: Colour, amount: float) -> Colour:
    """The colour ``amount`` of the way from ``first`` (0) to ``second`` (1)."""
    red, green, blue = (round(a + (b - a) * amount) for a, b in zip(first, second, strict=True))
    return clip((red, green, blue))


def clip(colour: Colour) -> Colour:
    """``colour`` with every channel moved into 0 to 255."""
    red, green, blue = (min(255, max(0, channel)) for channel in colour)
    return red, green, blue
