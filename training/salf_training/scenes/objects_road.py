"""Drawers of things with wheels and of the traffic light."""

from numpy.random import Generator

from salf_training.scenes.colours import (
    GLASS,
    INK,
    LAMPLIGHT,
    WHITE,
    Colour,
    chance,
    darker,
    lighter,
    one_of,
    paint,
    tone,
)
from salf_training.scenes.fittings import smoke, wheel, window
from salf_training.scenes.pen import Pen


def car(pen: Pen, rng: Generator) -> None:
    """A saloon from the side; sometimes a yellow car."""
    yellow = chance(rng, 0.42)
    if yellow:
        pen.label("yellow car")
    coat = tone(rng, "yellow") if yellow else paint(rng, without=("yellow", "orange", "lime"))
    pen.polygon([(-0.32, 0.27), (-0.19, 0.5), (0.13, 0.5), (0.31, 0.27)], coat)
    pen.polygon([(-0.26, 0.28), (-0.165, 0.455), (-0.03, 0.455), (-0.03, 0.28)], GLASS, "car window")
    pen.polygon([(0.01, 0.28), (0.01, 0.455), (0.115, 0.455), (0.235, 0.28)], GLASS, "car window")
    pen.polygon([(-0.22, 0.355), (-0.165, 0.455), (-0.09, 0.455)], WHITE, "car window")
    body = [(-0.5, 0.1), (-0.49, 0.26), (-0.44, 0.3), (0.3, 0.3), (0.46, 0.25), (0.5, 0.19), (0.5, 0.1)]
    pen.polygon(body, coat)
    pen.polygon([(-0.5, 0.1), (-0.5, 0.17), (0.5, 0.17), (0.5, 0.1)], darker(coat, 0.25), "bumper")
    pen.rect(0.05, 0.225, 0.12, 0.25, INK)
    pen.disc(0.46, 0.21, 0.035, LAMPLIGHT, "headlight")
    pen.rect(-0.5, 0.2, -0.45, 0.26, tone(rng, "red"))
    for x in (-0.28, 0.29):
        wheel(pen, x, 0.11, 0.115, lighter(tone(rng, "grey"), 0.4))


def bus(pen: Pen, rng: Generator) -> None:
    """A long box with a row of windows; sometimes a lit window or several."""
    coat, stripe = paint(rng), paint(rng)
    pen.polygon([(-0.5, 0.1), (-0.5, 0.53), (-0.46, 0.57), (0.46, 0.57), (0.5, 0.5), (0.5, 0.1)], coat)
    pen.rect(-0.47, 0.53, 0.44, 0.57, lighter(coat, 0.4))
    pen.rect(-0.5, 0.1, 0.5, 0.16, darker(coat, 0.3), "bumper")
    pen.rect(-0.5, 0.19, 0.5, 0.24, stripe)
    lit = chance(rng, 0.4)
    for left in (-0.46, -0.28, -0.1, 0.08):
        window(pen, left, 0.31, 0.13, 0.17, lit=lit)
    pen.rect(0.25, 0.12, 0.36, 0.49, darker(coat, 0.45))
    pen.rect(0.265, 0.15, 0.345, 0.47, GLASS)
    pen.polygon([(0.41, 0.27), (0.41, 0.49), (0.48, 0.49), (0.5, 0.27)], GLASS)
    pen.disc(0.47, 0.19, 0.03, LAMPLIGHT, "headlight")
    for x in (-0.27, 0.18):
        wheel(pen, x, 0.1, 0.105, lighter(tone(rng, "grey"), 0.4))


def traffic_light(pen: Pen, rng: Generator) -> None:
    """A pole with a housing of three lamps, one of them on."""
    housing = darker(paint(rng, without=("white", "yellow")), 0.35)
    pen.rect(-0.12, 0.0, 0.12, 0.05, INK)
    pen.rect(-0.04, 0.03, 0.04, 0.42, darker(tone(rng, "grey"), 0.35), "pole")
    pen.polygon([(-0.17, 0.4), (-0.17, 0.97), (-0.13, 1.0), (0.13, 1.0), (0.17, 0.97), (0.17, 0.4)], housing)
    shining = int(rng.integers(3))
    lamps: tuple[Colour, ...] = ((70, 200, 110), (252, 196, 50), (236, 62, 54))
    for step, colour in enumerate(lamps):
        y = 0.5 + 0.2 * step
        for side in (-1.0, 1.0):
            pen.polygon([(side * 0.16, y + 0.08), (side * 0.25, y + 0.07), (side * 0.16, y - 0.05)], housing)
        part = "red lamp" if step == shining == 2 else ""
        pen.disc(0.0, y, 0.085, lighter(colour, 0.1) if step == shining else darker(colour, 0.5), part)
        if step == shining:
            pen.disc(-0.025, y + 0.03, 0.03, lighter(colour, 0.7), part)


def bicycle(pen: Pen, rng: Generator) -> None:
    """Two thin wheels and a frame; sometimes a flower basket on the handlebar."""
    frame = paint(rng, without=("white", "grey"))
    for x in (-0.29, 0.29):
        pen.ring(x, 0.2, 0.205, 0.042, INK, "bicycle wheel")
        for dx, dy in ((0.0, 0.17), (0.15, 0.085), (0.15, -0.085)):
            pen.line([(x - dx, 0.2 - dy), (x + dx, 0.2 + dy)], 0.014, lighter(INK, 0.5), "spokes")
    pen.line([(-0.29, 0.2), (-0.13, 0.45), (0.19, 0.45), (-0.04, 0.19), (-0.29, 0.2)], 0.042, frame)
    pen.line([(-0.04, 0.19), (-0.16, 0.52)], 0.042, frame)
    pen.line([(0.29, 0.2), (0.18, 0.55)], 0.042, frame)
    pen.line([(0.18, 0.55), (0.28, 0.6)], 0.042, frame, "handlebar")
    pen.line([(-0.24, 0.53), (-0.09, 0.53)], 0.055, INK, "saddle")
    pen.disc(-0.04, 0.19, 0.055, darker(frame, 0.4))
    if chance(rng, 0.45):
        _flower_basket(pen, rng)


def _flower_basket(pen: Pen, rng: Generator) -> None:
    part = "flower basket"
    for x, y in ((0.27, 0.57), (0.35, 0.62), (0.43, 0.57)):
        pen.disc(x, y, 0.062, paint(rng, without=("brown", "charcoal")), part)
        pen.disc(x, y, 0.022, LAMPLIGHT, part)
    pen.polygon([(0.22, 0.53), (0.48, 0.53), (0.44, 0.36), (0.26, 0.36)], (176, 128, 78), part)
    pen.line([(0.235, 0.465), (0.465, 0.465)], 0.02, (120, 82, 50), part)


def tractor(pen: Pen, rng: Generator) -> None:
    """A big wheel behind, a small one in front, a cab and a bonnet; sometimes smoke from its pipe."""
    coat = paint(rng, without=("charcoal",))
    rim = one_of(rng, ((247, 204, 62), (242, 240, 232), (212, 60, 54)))
    if chance(rng, 0.45):
        smoke(pen, rng, 0.28, 0.68)
    pen.line([(0.28, 0.45), (0.28, 0.68)], 0.05, INK, "exhaust pipe")
    pen.polygon([(-0.04, 0.22), (-0.04, 0.48), (0.42, 0.46), (0.46, 0.4), (0.46, 0.2)], coat, "engine bonnet")
    pen.polygon([(-0.04, 0.2), (-0.04, 0.29), (0.46, 0.29), (0.46, 0.2)], darker(coat, 0.25), "engine bonnet")
    for x in (0.34, 0.39):
        pen.line([(x, 0.31), (x, 0.41)], 0.018, INK, "engine bonnet")
    pen.polygon([(-0.36, 0.35), (-0.32, 0.74), (0.0, 0.74), (0.06, 0.35)], coat)
    pen.polygon([(-0.29, 0.46), (-0.265, 0.69), (-0.03, 0.69), (0.0, 0.46)], GLASS)
    pen.polygon([(-0.4, 0.73), (-0.38, 0.79), (0.06, 0.79), (0.08, 0.73)], darker(coat, 0.3))
    wheel(pen, -0.24, 0.25, 0.25, rim)
    wheel(pen, 0.33, 0.14, 0.14, rim)


def train(pen: Pen, rng: Generator) -> None:
    """A steam engine; often smoke, sometimes a lit window."""
    coat, trim = paint(rng, without=("charcoal",)), paint(rng)
    if chance(rng, 0.5):
        smoke(pen, rng, 0.3, 0.6)
    pen.polygon([(0.24, 0.42), (0.21, 0.6), (0.39, 0.6), (0.36, 0.42)], INK, "chimney of an engine")
    pen.dome(0.06, 0.43, 0.07, 0.1, trim)
    pen.rect(-0.14, 0.18, 0.43, 0.44, coat)
    pen.rect(-0.14, 0.38, 0.43, 0.44, lighter(coat, 0.3))
    for x in (0.02, 0.2):
        pen.rect(x - 0.015, 0.18, x + 0.015, 0.44, trim)
    pen.disc(0.42, 0.31, 0.06, LAMPLIGHT, "headlight")
    pen.rect(-0.46, 0.15, -0.12, 0.62, coat)
    pen.rect(-0.5, 0.6, -0.08, 0.67, trim)
    window(pen, -0.38, 0.38, 0.18, 0.16, lit=chance(rng, 0.4))
    pen.rect(-0.48, 0.14, 0.44, 0.21, darker(coat, 0.4))
    pen.polygon([(0.4, 0.2), (0.52, 0.02), (0.36, 0.02)], darker(trim, 0.2))
    wheel(pen, -0.3, 0.14, 0.14, trim)
    for x in (-0.02, 0.2):
        wheel(pen, x, 0.1, 0.1, trim)
    pen.line([(-0.3, 0.12), (0.2, 0.08)], 0.03, lighter(INK, 0.55))
