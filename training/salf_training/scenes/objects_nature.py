"""Drawers of living and seasonal things: tree, palm, cow, snowman, campfire."""

import math

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
    one_of,
    paint,
    tone,
    two_paints,
)
from salf_training.scenes.fittings import smoke
from salf_training.scenes.pen import Pen


def tree(pen: Pen, rng: Generator) -> None:
    """A trunk and a round crown; sometimes red fruit."""
    leaf = paint(rng, without=("charcoal", "blue", "grey"))
    pen.polygon([(-0.08, 0.0), (0.08, 0.0), (0.055, 0.5), (-0.055, 0.5)], WOOD, "tree trunk")
    pen.line([(0.0, 0.3), (0.14, 0.46)], 0.045, WOOD, "tree trunk")
    crown = (
        (-0.2, 0.54, 0.18),
        (0.2, 0.54, 0.18),
        (-0.17, 0.72, 0.19),
        (0.18, 0.72, 0.18),
        (0.0, 0.82, 0.18),
        (0.0, 0.6, 0.2),
    )
    for x, y, radius in crown:
        pen.disc(x, y, radius, leaf, "crown of leaves")
    for x, y, radius in ((0.2, 0.5, 0.12), (0.0, 0.48, 0.1), (-0.2, 0.48, 0.09)):
        pen.disc(x, y, radius, darker(leaf, 0.15), "crown of leaves")
    for x, y, radius in ((-0.12, 0.8, 0.09), (0.09, 0.86, 0.06)):
        pen.disc(x, y, radius, lighter(leaf, 0.25), "crown of leaves")
    if chance(rng, 0.45):
        for x, y in ((-0.23, 0.62), (-0.06, 0.7), (0.13, 0.62), (0.22, 0.77), (0.02, 0.54), (-0.12, 0.5)):
            pen.disc(x, y, 0.045, (206, 44, 50), "red fruit")
            pen.disc(x - 0.014, y + 0.016, 0.014, (250, 170, 160), "red fruit")


def palm(pen: Pen, rng: Generator) -> None:
    """A leaning ringed trunk and a crown of drooping fronds."""
    leaf = paint(rng, without=("charcoal", "white", "grey"))
    trunk = [(-0.14, 0.0), (-0.1, 0.2), (-0.04, 0.42), (0.04, 0.68)]
    pen.line(trunk, 0.095, lighter(WOOD, 0.15), "tree trunk")
    for x, y in ((-0.12, 0.1), (-0.09, 0.22), (-0.06, 0.34), (-0.02, 0.46), (0.01, 0.57)):
        pen.line([(x - 0.04, y + 0.012), (x + 0.04, y - 0.012)], 0.018, darker(WOOD, 0.2), "tree trunk")
    for angle in (215.0, -35.0, 178.0, 2.0, 138.0, 42.0, 100.0, 76.0):
        _frond(pen, math.radians(angle), darker(leaf, 0.18) if angle in (215.0, -35.0, 100.0) else leaf)
    for x, y in ((-0.02, 0.66), (0.09, 0.66), (0.035, 0.61)):
        pen.disc(x, y, 0.05, darker(WOOD, 0.35), "coconuts")


def _frond(pen: Pen, angle: float, colour: Colour) -> None:
    """A leaf that starts at the top of the trunk at ``angle`` and bends down."""
    upper, lower = [], []
    for step in range(6):
        far = step / 5
        x = 0.04 + 0.43 * far * math.cos(angle)
        y = 0.7 + 0.36 * far * math.sin(angle) + 0.18 * far - 0.28 * far * far
        half = 0.06 * math.sin(math.pi * (0.12 + 0.88 * far)) + 0.004
        upper.append((x - half * math.sin(angle), y + half * math.cos(angle)))
        lower.append((x + half * math.sin(angle), y - half * math.cos(angle)))
    pen.polygon([*upper, *reversed(lower)], colour, "fronds")
    rib = [((x + u) / 2, (y + v) / 2) for (x, y), (u, v) in zip(upper, lower, strict=True)]
    pen.line(rib, 0.012, darker(colour, 0.35), "fronds")


def cow(pen: Pen, rng: Generator) -> None:
    """A patched cow from the side with horns, udder and tail."""
    coat, patch = two_paints(rng)
    pen.line([(-0.4, 0.5), (-0.48, 0.4), (-0.46, 0.22)], 0.03, darker(coat, 0.2))
    pen.disc(-0.46, 0.2, 0.035, patch)
    for x in (-0.26, 0.2):
        pen.rect(x - 0.05, 0.0, x + 0.05, 0.3, darker(coat, 0.3), "cow legs")
    pen.disc(-0.16, 0.2, 0.075, (240, 160, 170), "udder")
    for x in (-0.37, 0.1):
        pen.rect(x - 0.05, 0.0, x + 0.05, 0.3, coat, "cow legs")
        pen.rect(x - 0.05, 0.0, x + 0.05, 0.05, INK, "cow legs")
    pen.polygon(
        [
            (-0.42, 0.26),
            (-0.43, 0.46),
            (-0.38, 0.55),
            (0.2, 0.56),
            (0.28, 0.48),
            (0.26, 0.26),
            (0.16, 0.2),
            (-0.34, 0.2),
        ],
        coat,
    )
    pen.oval(-0.24, 0.44, 0.12, 0.085, patch, "patched coat", turn_deg=15.0)
    pen.oval(0.05, 0.34, 0.1, 0.075, patch, "patched coat", turn_deg=-20.0)
    pen.polygon([(0.14, 0.55), (0.2, 0.56), (0.27, 0.48), (0.22, 0.42), (0.12, 0.46)], patch, "patched coat")
    pen.line([(0.25, 0.64), (0.22, 0.71)], 0.03, (236, 226, 200), "cow horns")
    pen.line([(0.4, 0.64), (0.43, 0.71)], 0.03, (236, 226, 200), "cow horns")
    pen.oval(0.19, 0.58, 0.07, 0.035, patch, turn_deg=-15.0)
    pen.oval(0.46, 0.58, 0.06, 0.032, patch, turn_deg=15.0)
    pen.polygon([(0.22, 0.62), (0.43, 0.62), (0.45, 0.42), (0.4, 0.34), (0.28, 0.34), (0.2, 0.44)], coat)
    pen.oval(0.35, 0.39, 0.12, 0.075, (242, 176, 176))
    for x in (0.31, 0.4):
        pen.disc(x, 0.39, 0.018, INK)
    for x in (0.29, 0.38):
        pen.disc(x, 0.54, 0.03, WHITE)
        pen.disc(x + 0.005, 0.54, 0.02, INK)


def snowman(pen: Pen, rng: Generator) -> None:
    """Three balls, a hat, a carrot and stick arms; sometimes a scarf."""
    snow = mix(paint(rng), WHITE, 0.72)
    hat = darker(paint(rng, without=("white",)), 0.25)
    for side in (-1.0, 1.0):
        pen.line([(side * 0.1, 0.48), (side * 0.31, 0.62)], 0.028, WOOD, "stick arms")
        pen.line([(side * 0.25, 0.58), (side * 0.33, 0.53)], 0.022, WOOD, "stick arms")
    for y, radius in ((0.22, 0.22), (0.49, 0.17), (0.72, 0.135)):
        pen.disc(0.0, y, radius, darker(snow, 0.14))
        pen.disc(-0.02, y + 0.015, radius * 0.87, snow)
    for y in (0.43, 0.51, 0.25):
        pen.disc(0.0, y, 0.024, INK)
    for x in (-0.05, 0.05):
        pen.disc(x, 0.755, 0.022, INK)
    pen.polygon([(0.0, 0.735), (0.17, 0.7), (0.0, 0.69)], tone(rng, "orange"), "carrot nose")
    if chance(rng, 0.5):
        _scarf(pen, rng)
    pen.rect(-0.17, 0.815, 0.17, 0.85, hat, "top hat")
    pen.rect(-0.105, 0.84, 0.105, 1.0, hat, "top hat")
    pen.rect(-0.105, 0.85, 0.105, 0.885, lighter(hat, 0.5), "top hat")


def _scarf(pen: Pen, rng: Generator) -> None:
    wool = paint(rng, without=("white", "grey"))
    pen.polygon([(0.05, 0.6), (0.14, 0.6), (0.17, 0.38), (0.08, 0.38)], darker(wool, 0.15), "scarf")
    pen.oval(0.0, 0.615, 0.155, 0.05, wool, "scarf")
    pen.line([(0.075, 0.43), (0.165, 0.43)], 0.025, lighter(wool, 0.5), "scarf")


def campfire(pen: Pen, rng: Generator) -> None:
    """Flames over crossed logs in a ring of stones; sometimes smoke."""
    if chance(rng, 0.45):
        smoke(pen, rng, 0.0, 0.8)
    outer = one_of(rng, ((232, 84, 44), (240, 120, 40), (214, 52, 52), (226, 84, 120), (124, 96, 200), (60, 140, 210)))
    inner = lighter(outer, 0.35) if chance(rng, 0.4) else (252, 190, 60)
    _flame(pen, 0.0, 0.12, 0.31, 0.74, outer)
    _flame(pen, 0.02, 0.12, 0.2, 0.5, inner)
    _flame(pen, 0.0, 0.12, 0.11, 0.29, lighter(inner, 0.6))
    for side in (-1.0, 1.0):
        pen.line([(side * -0.36, 0.08), (side * 0.3, 0.21)], 0.09, darker(WOOD, 0.1 if side > 0 else 0.25), "logs")
        pen.disc(side * 0.31, 0.21, 0.045, lighter(WOOD, 0.4), "logs")
    stone = tone(rng, "grey")
    for step, x in enumerate((-0.42, -0.25, -0.08, 0.09, 0.26, 0.42)):
        pen.oval(x, 0.055, 0.095, 0.06, darker(stone, 0.1 + 0.12 * (step % 2)), "stones in a ring")


def _flame(pen: Pen, x: float, foot: float, half: float, height: float, colour: Colour) -> None:
    outline = [
        (0.0, 0.0), (0.75, 0.04), (1.0, 0.25), (0.86, 0.5), (0.72, 0.66), (0.52, 0.46), (0.36, 0.74), (0.06, 1.0),
        (-0.1, 0.72), (-0.34, 0.52), (-0.5, 0.7), (-0.8, 0.52), (-1.0, 0.25), (-0.75, 0.04),
    ]  # fmt: skip
    pen.polygon([(x + half * u, foot + height * v) for u, v in outline], colour, "flames")
