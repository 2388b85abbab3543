"""Drawers of things in the air: aeroplane, helicopter, balloon, kite."""

import math

from numpy.random import Generator

from salf_training.scenes.colours import GLASS, INK, WHITE, WOOD, chance, darker, lighter, paint, two_paints
from salf_training.scenes.fittings import round_window
from salf_training.scenes.pen import Pen


def aeroplane(pen: Pen, rng: Generator) -> None:
    """An airliner from the side; sometimes with large round windows."""
    coat, trim = two_paints(rng)
    pen.polygon([(0.06, 0.28), (-0.06, 0.47), (-0.16, 0.47), (-0.06, 0.28)], darker(trim, 0.25), "wing of an aeroplane")
    pen.polygon([(-0.28, 0.3), (-0.42, 0.54), (-0.51, 0.54), (-0.46, 0.26)], trim, "tail fin")
    pen.oval(0.0, 0.25, 0.5, 0.115, coat)
    pen.polygon([(-0.49, 0.31), (-0.2, 0.33), (-0.2, 0.16), (-0.47, 0.25)], coat)
    pen.polygon([(-0.42, 0.21), (0.42, 0.19), (0.3, 0.155), (0.0, 0.135), (-0.25, 0.155)], darker(coat, 0.2))
    pen.polygon([(0.35, 0.34), (0.31, 0.27), (0.48, 0.27), (0.43, 0.31)], GLASS)
    pen.polygon([(0.12, 0.22), (-0.2, 0.02), (-0.31, 0.02), (-0.1, 0.22)], trim, "wing of an aeroplane")
    pen.polygon([(-0.36, 0.29), (-0.5, 0.2), (-0.56, 0.2), (-0.5, 0.3)], darker(trim, 0.2))
    if chance(rng, 0.45):
        for x in (-0.17, -0.02, 0.13):
            round_window(pen, x, 0.285, 0.052)
    else:
        for x in (-0.22, -0.14, -0.06, 0.02, 0.1, 0.18):
            pen.rect(x, 0.275, x + 0.04, 0.315, INK)


def helicopter(pen: Pen, rng: Generator) -> None:
    """A glass cockpit, a tail boom, two rotors and skids."""
    coat = paint(rng)
    blade = darker(paint(rng), 0.4)
    pen.polygon([(0.0, 0.42), (-0.48, 0.4), (-0.48, 0.34), (0.0, 0.22)], darker(coat, 0.12))
    pen.polygon([(-0.42, 0.37), (-0.5, 0.52), (-0.56, 0.52), (-0.5, 0.34)], coat, "tail fin")
    pen.ring(-0.48, 0.39, 0.1, 0.03, blade, "tail rotor")
    pen.oval(0.16, 0.3, 0.28, 0.2, coat)
    pen.polygon(
        [(0.16, 0.27), (0.16, 0.44), (0.24, 0.455), (0.34, 0.41), (0.41, 0.33), (0.425, 0.27)], GLASS, "glass cockpit"
    )
    pen.polygon([(0.18, 0.36), (0.18, 0.43), (0.25, 0.435)], WHITE, "glass cockpit")
    pen.rect(-0.04, 0.27, 0.1, 0.41, lighter(coat, 0.45))
    pen.line([(0.1, 0.48), (0.1, 0.57)], 0.045, INK)
    pen.line([(-0.36, 0.575), (0.54, 0.575)], 0.036, blade, "rotor blades")
    pen.disc(0.1, 0.575, 0.04, INK, "rotor blades")
    for x in (0.04, 0.26):
        pen.line([(x, 0.14), (x, 0.03)], 0.026, INK, "landing skids")
    pen.line([(-0.1, 0.03), (0.4, 0.03), (0.46, 0.08)], 0.034, INK, "landing skids")


def balloon(pen: Pen, rng: Generator) -> None:
    """A hot-air balloon with a basket; sometimes a striped balloon."""
    coat, second = two_paints(rng)
    striped = chance(rng, 0.45)
    part = "striped balloon" if striped else ""
    for x in (-0.12, 0.12):
        pen.line([(x * 1.7, 0.34), (x * 0.9, 0.14)], 0.016, INK)
    for step, width in enumerate((1.0, 0.68, 0.3)):
        if step and not striped:
            continue
        _envelope(pen, width, coat if step % 2 == 0 else second, part)
    if not striped:
        pen.rect(-0.352, 0.6, 0.352, 0.69, second)
        pen.oval(-0.15, 0.82, 0.1, 0.06, lighter(coat, 0.45), turn_deg=30.0)
    pen.rect(-0.14, 0.28, 0.14, 0.315, darker(coat, 0.4), part)
    pen.polygon([(-0.13, 0.15), (0.13, 0.15), (0.1, 0.0), (-0.1, 0.0)], WOOD, "wicker basket")
    pen.line([(-0.12, 0.14), (0.12, 0.14)], 0.03, lighter(WOOD, 0.35), "wicker basket")


def _envelope(pen: Pen, width: float, colour: tuple[int, int, int], part: str) -> None:
    """The balloon's cloth, or a gore of it if ``width`` is below 1."""
    top = [(0.36 * width * math.cos(a), 0.64 + 0.36 * math.sin(a)) for a in (math.pi * k / 20 for k in range(21))]
    pen.polygon(
        [*top, (-0.335 * width, 0.53), (-0.14 * width, 0.3), (0.14 * width, 0.3), (0.335 * width, 0.53)], colour, part
    )


def kite(pen: Pen, rng: Generator) -> None:
    """A diamond of four fields with a long tail of bows."""
    coat, second = two_paints(rng)
    tail = [(0.05 * math.sin(k * 1.15), 0.36 - 0.04 * k) for k in range(10)]
    pen.line(tail, 0.02, darker(second, 0.4), "kite tail")
    for step in (3, 6, 9):
        x, y = tail[step]
        bow = coat if step == 6 else paint(rng)
        pen.polygon([(x, y), (x - 0.09, y + 0.045), (x - 0.09, y - 0.045)], bow, "bow on a string")
        pen.polygon([(x, y), (x + 0.09, y + 0.045), (x + 0.09, y - 0.045)], bow, "bow on a string")
    top, right, foot, left, middle = (0.0, 1.0), (0.3, 0.7), (0.0, 0.34), (-0.3, 0.7), (0.0, 0.7)
    pen.polygon([top, right, middle], coat)
    pen.polygon([right, foot, middle], second)
    pen.polygon([foot, left, middle], darker(coat, 0.12))
    pen.polygon([left, top, middle], lighter(second, 0.15))
    pen.line([top, foot], 0.016, INK)
    pen.line([left, right], 0.016, INK)
