"""Drawers of things by the water: sailboat, lighthouse, anchor, duck.

A drawer gets a pen and a generator; ``pen.py`` explains the coordinates, ``objects.py`` lists the sizes.
"""

from itertools import pairwise

from numpy.random import Generator

from salf_training.scenes.colours import INK, LAMPLIGHT, WHITE, chance, darker, lighter, paint, tone
from salf_training.scenes.fittings import door, flag, roof_paint, round_window
from salf_training.scenes.pen import Pen, Point


def sailboat(pen: Pen, rng: Generator) -> None:
    """Hull, mast and two sails; sometimes a striped sail, portholes, a flag."""
    hull, sail = paint(rng), paint(rng)
    pen.line([(0.0, 0.18), (0.0, 0.97)], 0.03, darker(hull, 0.5), "mast")
    pen.polygon([(-0.04, 0.25), (-0.36, 0.27), (-0.2, 0.5), (-0.04, 0.84)], lighter(sail, 0.35), "jib")
    _mainsail(pen, rng, striped=chance(rng, 0.45))
    pen.polygon([(-0.45, 0.2), (0.47, 0.2), (0.34, 0.0), (-0.3, 0.0)], hull, "hull")
    pen.polygon([(-0.37, 0.08), (0.39, 0.08), (0.34, 0.0), (-0.3, 0.0)], darker(hull, 0.3), "hull")
    pen.line([(-0.44, 0.2), (0.46, 0.2)], 0.03, lighter(hull, 0.6), "hull")
    if chance(rng, 0.35):
        for x in (-0.2, 0.02, 0.24):
            round_window(pen, x, 0.105, 0.055)
    if chance(rng, 0.35):
        flag(pen, rng, 0.0, 0.97, 0.2)


def _mainsail(pen: Pen, rng: Generator, *, striped: bool) -> None:
    cloth = paint(rng)
    part = "striped sail" if striped else ""
    pen.polygon([(0.04, 0.25), (0.44, 0.27), (0.33, 0.5), (0.19, 0.75), (0.04, 0.94)], cloth, part)
    if striped:
        band = WHITE if sum(cloth) < 560 else tone(rng, "red")
        pen.polygon([(0.04, 0.36), (0.395, 0.37), (0.33, 0.5), (0.04, 0.49)], band, part)
        pen.polygon([(0.04, 0.62), (0.265, 0.62), (0.19, 0.75), (0.04, 0.75)], band, part)


def lighthouse(pen: Pen, rng: Generator) -> None:
    """A tapering tower in three bands with a lantern; sometimes a red roof, a round window, a blue door."""
    wall, band = tone(rng, "white"), paint(rng, without=("white",))
    pen.polygon([(-0.3, 0.0), (0.3, 0.0), (0.22, 0.07), (-0.22, 0.07)], darker(tone(rng, "grey"), 0.2))
    edges = [0.05 + 0.155 * step for step in range(5)]
    for step, (low, high) in enumerate(pairwise(edges)):
        near, far = _half_width(low), _half_width(high)
        colour = band if step % 2 == 0 else wall
        pen.polygon([(-near, low), (near, low), (far, high), (-far, high)], colour)
        pen.polygon([(near * 0.4, low), (near, low), (far, high), (far * 0.4, high)], darker(colour, 0.16))
    pen.rect(-0.17, 0.66, 0.17, 0.7, INK, "lantern room")
    pen.rect(-0.09, 0.7, 0.09, 0.84, LAMPLIGHT, "lantern room")
    pen.line([(0.0, 0.7), (0.0, 0.84)], 0.02, INK, "lantern room")
    _roof(pen, rng)
    if chance(rng, 0.4):
        round_window(pen, -0.02, 0.44, 0.065)
    door(pen, rng, -0.055, 0.05, 0.11, 0.17)


def _half_width(y: float) -> float:
    return 0.2 - 0.13 * y


def _roof(pen: Pen, rng: Generator) -> None:
    colour, part = roof_paint(rng)
    pen.polygon([(-0.15, 0.83), (0.15, 0.83), (0.0, 0.97)], colour, part)
    pen.disc(0.0, 0.975, 0.025, INK)


def anchor(pen: Pen, rng: Generator) -> None:
    """Ring, shank, stock and two curved arms."""
    iron = paint(rng, without=("white",))
    arms: list[Point] = [
        (-0.34, 0.28),
        (-0.27, 0.15),
        (-0.14, 0.07),
        (0.0, 0.05),
        (0.14, 0.07),
        (0.27, 0.15),
        (0.34, 0.28),
    ]
    pen.ring(0.0, 0.89, 0.11, 0.05, iron, "anchor ring")
    pen.line([(0.0, 0.79), (0.0, 0.06)], 0.1, iron)
    pen.line([(-0.23, 0.66), (0.23, 0.66)], 0.09, iron)
    pen.line(arms, 0.1, iron)
    for side in (-1.0, 1.0):
        pen.polygon([(side * 0.2, 0.27), (side * 0.41, 0.45), (side * 0.44, 0.17)], iron)
    pen.line([(-0.018, 0.76), (-0.018, 0.12)], 0.025, lighter(iron, 0.45))


def duck(pen: Pen, rng: Generator) -> None:
    """A round duck from the side with a bill, a wing and feet."""
    coat = paint(rng)
    bill = tone(rng, "orange")
    for x in (-0.08, 0.1):
        pen.line([(x, 0.14), (x, 0.03), (x + 0.09, 0.02)], 0.04, darker(bill, 0.15), "duck feet")
    pen.polygon([(-0.28, 0.42), (-0.5, 0.52), (-0.46, 0.3), (-0.3, 0.18)], darker(coat, 0.1))
    pen.oval(-0.04, 0.31, 0.38, 0.22, coat)
    pen.polygon([(0.02, 0.42), (0.32, 0.32), (0.33, 0.62), (0.14, 0.62)], coat)
    pen.polygon([(0.36, 0.68), (0.56, 0.62), (0.36, 0.56)], bill, "duck bill")
    pen.disc(0.24, 0.64, 0.175, coat)
    pen.oval(-0.1, 0.33, 0.22, 0.12, darker(coat, 0.2), "wing of a bird", turn_deg=12.0)
    pen.oval(-0.06, 0.36, 0.18, 0.08, lighter(coat, 0.25), "wing of a bird", turn_deg=12.0)
    pen.disc(0.29, 0.69, 0.045, WHITE)
    pen.disc(0.3, 0.69, 0.027, INK)
