"""Drawers of things people built: house, windmill, ferris wheel, tent, bench, parasol, sandcastle."""

import math
from itertools import pairwise

from numpy.random import Generator

from salf_training.scenes.colours import (
    INK,
    WHITE,
    WOOD,
    Colour,
    chance,
    darker,
    lighter,
    mix,
    paint,
    two_paints,
)
from salf_training.scenes.fittings import door, flag, roof_paint, round_window, smoke, window
from salf_training.scenes.pen import Pen


def house(pen: Pen, rng: Generator) -> None:
    """A gabled house; sometimes a red roof, a blue door, lit windows, a round window, smoke."""
    wall = lighter(paint(rng, without=("charcoal",)), 0.3)
    roof, part = roof_paint(rng)
    if chance(rng, 0.45):
        smoke(pen, rng, 0.25, 0.92)
    pen.rect(0.19, 0.6, 0.31, 0.92, darker(WOOD, 0.1), "chimney")
    pen.polygon([(-0.4, 0.0), (0.4, 0.0), (0.4, 0.5), (0.0, 0.92), (-0.4, 0.5)], wall)
    pen.polygon([(-0.4, 0.5), (0.4, 0.5), (0.0, 0.92)], wall, "gable")
    pen.rect(-0.4, 0.0, 0.4, 0.05, darker(wall, 0.3))
    pen.polygon(
        [(-0.5, 0.44), (-0.44, 0.39), (0.0, 0.83), (0.44, 0.39), (0.5, 0.44), (0.06, 0.95), (-0.06, 0.95)], roof, part
    )
    pen.polygon(
        [(-0.38, 0.46), (-0.42, 0.41), (0.0, 0.83), (0.42, 0.41), (0.38, 0.46), (0.0, 0.87)], darker(roof, 0.3), part
    )
    lit = chance(rng, 0.4)
    door(pen, rng, -0.09, 0.0, 0.18, 0.27)
    for left in (-0.32, 0.16):
        window(pen, left, 0.16, 0.15, 0.17, lit=lit)
    if chance(rng, 0.45):
        round_window(pen, 0.0, 0.58, 0.09)


def windmill(pen: Pen, rng: Generator) -> None:
    """A mill with four latticed sails at any angle; sometimes a red roof, a blue door, a round window."""
    wall = paint(rng)
    pen.polygon([(-0.24, 0.0), (0.24, 0.0), (0.14, 0.62), (-0.14, 0.62)], wall)
    pen.polygon([(0.06, 0.0), (0.24, 0.0), (0.14, 0.62), (0.04, 0.62)], darker(wall, 0.18))
    roof, part = roof_paint(rng)
    pen.dome(0.0, 0.6, 0.19, 0.2, roof, part)
    door(pen, rng, -0.08, 0.0, 0.15, 0.18)
    if chance(rng, 0.45):
        round_window(pen, -0.02, 0.4, 0.07)
    start = float(rng.uniform(0.0, math.pi / 2))
    cloth = lighter(paint(rng), 0.35)
    for quarter in range(4):
        _mill_sail(pen, start + quarter * math.pi / 2, cloth)
    pen.disc(0.0, 0.64, 0.045, INK)


def _mill_sail(pen: Pen, angle: float, cloth: Colour) -> None:
    along, across = (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))

    def at(length: float, side: float) -> tuple[float, float]:
        return length * along[0] + side * across[0], 0.64 + length * along[1] + side * across[1]

    pen.polygon([at(0.1, 0.0), at(0.41, 0.0), at(0.41, 0.12), at(0.1, 0.1)], cloth, "mill sails")
    for length in (0.2, 0.3, 0.4):
        pen.line([at(length, 0.0), at(length, 0.11)], 0.014, WOOD, "mill sails")
    pen.line([at(0.0, 0.0), at(0.42, 0.0)], 0.03, darker(WOOD, 0.3), "mill sails")


def ferris_wheel(pen: Pen, rng: Generator) -> None:
    """A wheel of eight cabins on a trestle."""
    steel = darker(paint(rng, without=("white",)), 0.15)
    for side in (-1.0, 1.0):
        pen.line([(0.0, 0.55), (side * 0.27, 0.03)], 0.05, darker(steel, 0.4))
    pen.rect(-0.34, 0.0, 0.34, 0.045, darker(steel, 0.4))
    pen.ring(0.0, 0.55, 0.385, 0.04, steel)
    pen.ring(0.0, 0.55, 0.19, 0.022, steel)
    start = float(rng.uniform(0.0, math.pi / 4))
    spokes = [(math.cos(start + k * math.pi / 4), math.sin(start + k * math.pi / 4)) for k in range(8)]
    for x, y in spokes[:4]:
        pen.line([(-0.37 * x, 0.55 - 0.37 * y), (0.37 * x, 0.55 + 0.37 * y)], 0.02, steel, "spokes")
    pen.disc(0.0, 0.55, 0.06, darker(steel, 0.4))
    for x, y in spokes:
        cabin = paint(rng)
        pen.dome(0.37 * x, 0.53 + 0.37 * y, 0.078, 0.07, lighter(cabin, 0.4), "cabin of a wheel")
        pen.dome(0.37 * x, 0.53 + 0.37 * y, 0.078, -0.07, cabin, "cabin of a wheel")


def tent(pen: Pen, rng: Generator) -> None:
    """A ridge tent with an open front; sometimes a flag."""
    cloth = paint(rng, without=("charcoal",))
    if chance(rng, 0.4):
        flag(pen, rng, -0.18, 0.6, 0.22)
    for x, foot in ((-0.48, -0.5), (0.43, 0.5)):
        pen.line([(x * 0.75, 0.2), (foot, 0.01)], 0.018, WOOD)
    pen.polygon([(-0.18, 0.62), (0.26, 0.58), (0.48, 0.03), (0.06, 0.0)], darker(cloth, 0.28))
    pen.polygon([(0.26, 0.58), (0.48, 0.03), (0.38, 0.025), (0.18, 0.585)], darker(cloth, 0.4))
    pen.polygon([(-0.18, 0.62), (-0.45, 0.0), (0.09, 0.0)], cloth)
    pen.polygon([(-0.18, 0.5), (-0.3, 0.0), (-0.06, 0.0)], mix(INK, cloth, 0.15), "tent opening")
    pen.polygon([(-0.18, 0.5), (-0.3, 0.0), (-0.37, 0.0)], lighter(cloth, 0.4))
    pen.line([(-0.21, 0.67), (-0.18, 0.61)], 0.024, WOOD)


def bench(pen: Pen, rng: Generator) -> None:
    """A slatted park bench."""
    plank = paint(rng, without=("charcoal",))
    iron = darker(paint(rng), 0.55)
    for x in (-0.4, 0.4):
        pen.line([(x, 0.02), (x, 0.54)], 0.05, iron)
        pen.line([(x * 0.86, 0.02), (x * 0.86, 0.24)], 0.05, iron)
        pen.line([(x * 1.02, 0.36), (x * 1.12, 0.36), (x * 1.12, 0.25)], 0.04, iron, "armrest")
    for foot in (0.34, 0.44, 0.54):
        pen.rect(-0.46, foot, 0.46, foot + 0.065, plank, "slats")
        pen.rect(-0.46, foot, 0.46, foot + 0.018, darker(plank, 0.3), "slats")
    pen.polygon([(-0.46, 0.28), (0.46, 0.28), (0.5, 0.2), (-0.5, 0.2)], lighter(plank, 0.2), "wooden seat")
    pen.rect(-0.5, 0.165, 0.5, 0.205, darker(plank, 0.35), "wooden seat")


def parasol(pen: Pen, rng: Generator) -> None:
    """A beach umbrella on its pole; sometimes a striped parasol."""
    cloth, second = two_paints(rng)
    striped = chance(rng, 0.45)
    part = "striped parasol" if striped else ""
    pen.line([(0.0, 0.02), (0.0, 0.93)], 0.04, lighter(WOOD, 0.3), "pole")
    pen.disc(0.0, 0.94, 0.035, darker(cloth, 0.3), part)
    for step, width in enumerate((0.5, 0.34, 0.14)):
        if step and not striped:
            break
        pen.dome(0.0, 0.56, width, 0.37, cloth if step % 2 == 0 else second, part)
    if not striped:
        pen.dome(0.0, 0.56, 0.18, 0.37, darker(cloth, 0.15))
        pen.oval(-0.25, 0.76, 0.11, 0.04, lighter(cloth, 0.4), turn_deg=42.0)
    edges = (-0.5, -0.34, -0.14, 0.14, 0.34, 0.5)
    for step, (left, right) in enumerate(pairwise(edges)):
        hem = second if striped and step % 2 else cloth
        pen.dome((left + right) / 2, 0.565, (right - left) / 2, -0.05, darker(hem, 0.12), part)


def sandcastle(pen: Pen, rng: Generator) -> None:
    """Three battlemented towers around a gate; sometimes a flag."""
    sand = mix(paint(rng), (226, 190, 130), 0.5)
    shade = darker(sand, 0.22)
    if chance(rng, 0.45):
        flag(pen, rng, 0.0, 0.76, 0.24)
    _tower(pen, 0.0, 0.2, 0.72, darker(sand, 0.1))
    pen.rect(-0.4, 0.05, 0.4, 0.36, sand)
    for x in (-0.34, 0.34):
        _tower(pen, x, 0.15, 0.54, lighter(sand, 0.1))
        pen.rect(x - 0.03, 0.28, x + 0.03, 0.4, mix(INK, sand, 0.3))
    pen.rect(-0.035, 0.46, 0.035, 0.6, mix(INK, sand, 0.3))
    pen.rect(-0.1, 0.05, 0.1, 0.18, mix(INK, sand, 0.2), "castle gate")
    pen.dome(0.0, 0.18, 0.1, 0.1, mix(INK, sand, 0.2), "castle gate")
    pen.polygon([(-0.5, 0.0), (-0.42, 0.08), (0.42, 0.08), (0.5, 0.0)], shade)
    shell = mix(paint(rng), WHITE, 0.4)
    for x in (-0.2, 0.2):
        pen.disc(x, 0.17, 0.035, shell)


def _tower(pen: Pen, x: float, half: float, top: float, colour: Colour) -> None:
    pen.rect(x - half, 0.05, x + half, top, colour)
    pen.rect(x + half * 0.45, 0.05, x + half, top, darker(colour, 0.14))
    tooth = half * 2 / 5
    for step in (0, 2, 4):
        left = x - half + step * tooth
        pen.rect(left, top - 0.01, left + tooth, top + 0.07, colour, "battlements")
