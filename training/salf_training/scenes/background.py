"""Skies, far things and grounds, drawn at random and without knowing the class."""

import math
from dataclasses import dataclass
from typing import Final

from numpy.random import Generator

from salf_training.scenes.brush import box, disc, gradient, polygon, stroke
from salf_training.scenes.canvas import SIDE, Canvas
from salf_training.scenes.colours import Colour, chance, darker, lighter, mix

SKIES: Final[dict[str, tuple[Colour, Colour]]] = {
    "blue sky": ((84, 160, 226), (206, 232, 244)),
    "grey sky": ((148, 160, 174), (214, 220, 222)),
    "sunset sky": ((116, 88, 156), (250, 176, 112)),
    "pink sky": ((166, 150, 214), (250, 206, 212)),
    "night sky": ((22, 30, 70), (74, 90, 146)),
}
"""Concept -> colours at the top and at the horizon."""

GROUNDS: Final[dict[str, tuple[Colour, ...]]] = {
    "grass": ((120, 178, 92), (150, 190, 100), (96, 152, 92)),
    "sand": ((234, 208, 152), (222, 190, 136)),
    "snow": ((232, 240, 246), (214, 226, 240)),
    "pavement": ((168, 170, 176), (146, 148, 158)),
    "bare earth": ((172, 128, 96), (148, 110, 86)),
}
"""Concept -> the colours it comes in."""

FAR_THINGS: Final = ("hills", "mountains", "forest", "skyline", "")
OTHER_CONCEPTS: Final = ("sun", "moon", "stars", "clouds", "birds", "sea", "flowers", "path", "rocks")

BACKGROUND_CONCEPTS: Final[tuple[str, ...]] = (
    *SKIES,
    *GROUNDS,
    *(name for name in FAR_THINGS if name),
    *OTHER_CONCEPTS,
)
"""Every background concept that scenes draw."""


@dataclass(frozen=True)
class Setting:
    """Rows, in pixels from the top, where the land under the sky begins and where dry ground begins.

    They differ where there is a sea between them.
    """

    horizon_px: int
    shore_px: int


def draw_background(canvas: Canvas, rng: Generator) -> Setting:
    """Cover the whole canvas with a random background; every concept drawn gets a code of nobody's."""
    horizon = int(rng.integers(92, 146))
    shore = horizon + (int(rng.integers(22, 46)) if chance(rng, 0.4) else 0)
    sky = _one(rng, tuple(SKIES))
    ground = _one(rng, tuple(GROUNDS))
    _sky(canvas, rng, sky, horizon)
    _far_things(canvas, rng, horizon, haze=SKIES[sky][1])
    if shore > horizon:
        _sea(canvas, rng, horizon, shore, haze=SKIES[sky][1])
    _ground(canvas, rng, ground, shore)
    return Setting(horizon, shore)


def _one(rng: Generator, names: tuple[str, ...]) -> str:
    return names[int(rng.integers(len(names)))]


def _sky(canvas: Canvas, rng: Generator, kind: str, horizon: int) -> None:
    top, bottom = (_varied(rng, colour) for colour in SKIES[kind])
    gradient(canvas, 0, horizon + 30, top, bottom, kind)
    night = kind == "night sky"
    if night:
        for x, y, radius in zip(
            rng.uniform(0, SIDE, 18), rng.uniform(0, horizon, 18), rng.uniform(0.6, 1.5, 18), strict=True
        ):
            disc(canvas, x, y, radius, (255, 248, 214), "stars")
    if chance(rng, 0.55):
        _sun_or_moon(canvas, rng, horizon, sky=top, moon=night or chance(rng, 0.15))
    if chance(rng, 0.6):
        white = mix((255, 255, 255), bottom, 0.15) if not night else mix(top, (255, 255, 255), 0.3)
        for _ in range(int(rng.integers(1, 4))):
            _cloud(canvas, rng, horizon, white)
    if chance(rng, 0.25):
        _birds(canvas, rng, horizon)


def _sun_or_moon(canvas: Canvas, rng: Generator, horizon: int, *, sky: Colour, moon: bool) -> None:
    x, y, radius = float(rng.uniform(15, SIDE - 15)), float(rng.uniform(16, horizon - 14)), float(rng.uniform(9, 15))
    if moon:
        disc(canvas, x, y, radius, (248, 242, 214), "moon")
        for dx, dy, small in ((-0.3, -0.2, 0.2), (0.3, 0.35, 0.26), (0.35, -0.4, 0.13)):
            disc(canvas, x + dx * radius, y + dy * radius, small * radius, (222, 214, 190), "moon")
        return
    disc(canvas, x, y, radius * 1.4, mix(sky, (255, 240, 180), 0.45), "sun")
    disc(canvas, x, y, radius, (255, 226, 110) if chance(rng, 0.7) else (250, 130, 90), "sun")


def _cloud(canvas: Canvas, rng: Generator, horizon: int, white: Colour) -> None:
    x, y, size = float(rng.uniform(10, SIDE - 10)), float(rng.uniform(12, horizon - 12)), float(rng.uniform(11, 20))
    for dx, dy, radius in ((-1.1, 0.15, 0.5), (1.1, 0.2, 0.45), (-0.45, -0.15, 0.7), (0.4, -0.05, 0.65)):
        disc(canvas, x + dx * size, y + dy * size, radius * size, white, "clouds")
    box(canvas, x - 1.2 * size, y + 0.2 * size, x + 1.2 * size, y + 0.66 * size, white, "clouds")


def _birds(canvas: Canvas, rng: Generator, horizon: int) -> None:
    x, y = float(rng.uniform(20, SIDE - 50)), float(rng.uniform(12, horizon - 25))
    for dx, dy in ((0.0, 0.0), (15.0, -7.0), (22.0, 5.0)):
        wing = [
            (x + dx - 6, y + dy - 3),
            (x + dx - 3, y + dy - 4),
            (x + dx, y + dy),
            (x + dx + 3, y + dy - 4),
            (x + dx + 6, y + dy - 3),
        ]
        stroke(canvas, wing, (56, 60, 80), "birds")


def _far_things(canvas: Canvas, rng: Generator, horizon: int, *, haze: Colour) -> None:
    kind = _one(rng, FAR_THINGS)
    if kind == "hills":
        _hills(canvas, rng, horizon, haze)
    elif kind == "mountains":
        _mountains(canvas, rng, horizon, haze)
    elif kind == "forest":
        _forest(canvas, rng, horizon, haze)
    elif kind == "skyline":
        _skyline(canvas, rng, horizon, haze)


def _hills(canvas: Canvas, rng: Generator, horizon: int, haze: Colour) -> None:
    green = _varied(rng, (110, 160, 110))
    for nearness in (0.35, 0.65):
        phase, waves, lift = rng.uniform(0, math.tau), rng.uniform(1.0, 2.2), rng.uniform(10, 22)
        ridge = [
            (x, horizon - lift * (1.25 - nearness) * (1 + math.sin(phase + waves * math.tau * x / SIDE)))
            for x in range(0, SIDE + 8, 8)
        ]
        polygon(canvas, [*ridge, (SIDE, horizon + 2), (0, horizon + 2)], mix(haze, green, nearness), "hills")


def _mountains(canvas: Canvas, rng: Generator, horizon: int, haze: Colour) -> None:
    rock = mix(haze, _varied(rng, (104, 112, 140)), 0.65)
    for x in rng.permutation(4) * 66 + rng.uniform(-20, 30, 4):
        half, high = float(rng.uniform(36, 60)), float(rng.uniform(30, 62))
        polygon(canvas, [(x - half, horizon + 2), (x, horizon - high), (x + half, horizon + 2)], rock, "mountains")
        polygon(
            canvas,
            [(x, horizon - high), (x + half, horizon + 2), (x + half * 0.2, horizon + 2)],
            darker(rock, 0.15),
            "mountains",
        )
        cap = [(x, horizon - high), (x + half * 0.3, horizon - high * 0.7), (x + half * 0.08, horizon - high * 0.78),
               (x - half * 0.1, horizon - high * 0.66), (x - half * 0.3, horizon - high * 0.7)]  # fmt: skip
        polygon(canvas, cap, lighter(rock, 0.75), "mountains")


def _forest(canvas: Canvas, rng: Generator, horizon: int, haze: Colour) -> None:
    """A row of firs so low and dense that nobody takes it for the object "tree"."""
    green = mix(haze, _varied(rng, (60, 110, 90)), 0.7)
    box(canvas, 0, horizon - 5, SIDE, horizon + 2, green, "forest")
    for x, high in zip(range(0, SIDE + 9, 9), rng.uniform(12, 24, 27), strict=False):
        polygon(canvas, [(x - 7, horizon), (x, horizon - high), (x + 7, horizon)], green, "forest")


def _skyline(canvas: Canvas, rng: Generator, horizon: int, haze: Colour) -> None:
    grey = mix(haze, _varied(rng, (96, 104, 132)), 0.55)
    x = 0.0
    while x < SIDE:
        width, high = float(rng.uniform(12, 24)), float(rng.uniform(10, 42))
        tint = lighter(grey, float(rng.uniform(0, 0.2)))
        box(canvas, x, horizon - high, x + width, horizon + 2, tint, "skyline")
        for row in range(int(high // 9)):
            box(
                canvas,
                x + 3,
                horizon - high + 4 + 9 * row,
                x + width - 3,
                horizon - high + 7 + 9 * row,
                lighter(tint, 0.3),
                "skyline",
            )
        x += width


def _sea(canvas: Canvas, rng: Generator, horizon: int, shore: int, *, haze: Colour) -> None:
    water = mix(_varied(rng, (58, 134, 182)), haze, 0.2)
    gradient(canvas, horizon, shore, lighter(water, 0.2), water, "sea")
    for x, y in zip(rng.uniform(0, SIDE, 9), rng.uniform(horizon + 3, shore - 3, 9), strict=True):
        box(canvas, x - 8, y - 0.7, x + 8, y + 0.7, lighter(water, 0.5), "sea")
    box(canvas, 0, shore - 2, SIDE, shore, lighter(water, 0.7), "sea")


def _ground(canvas: Canvas, rng: Generator, kind: str, shore: int) -> None:
    shades = GROUNDS[kind]
    colour = _varied(rng, shades[int(rng.integers(len(shades)))])
    gradient(canvas, shore, SIDE, lighter(colour, 0.14), darker(colour, 0.1), kind)
    if kind == "pavement":
        _slabs(canvas, rng, shore, colour)
    else:
        _tufts(canvas, rng, shore, kind, colour)
    if kind != "pavement" and chance(rng, 0.3):
        _path(canvas, rng, shore, mix(colour, (226, 200, 160) if kind != "sand" else (150, 120, 90), 0.6))
    if chance(rng, 0.25):
        _rocks(canvas, rng, shore)
    if kind == "grass" and chance(rng, 0.5):
        _flowers(canvas, rng, shore)


def _slabs(canvas: Canvas, rng: Generator, shore: int, colour: Colour) -> None:
    seam = darker(colour, 0.16)
    y, gap = float(shore), 7.0
    while y < SIDE:
        box(canvas, 0, y, SIDE, y + 0.9, seam, "pavement")
        y, gap = y + gap, gap * 1.4
    middle = SIDE / 2 + float(rng.uniform(-60, 60))
    for lane in range(-8, 9):
        foot = middle + lane * 46
        top = middle + lane * 17
        polygon(canvas, [(top, shore), (top + 0.7, shore), (foot + 1.2, SIDE), (foot, SIDE)], seam, "pavement")


def _tufts(canvas: Canvas, rng: Generator, shore: int, kind: str, colour: Colour) -> None:
    """Short strokes that grow towards the viewer: blades, ripples or clods."""
    dark, light = darker(colour, 0.14), lighter(colour, 0.25)
    depths = rng.uniform(0, 1, 34) ** 0.8
    for k, (x, depth) in enumerate(zip(rng.uniform(0, SIDE, 34), depths, strict=True)):
        y, size = shore + 4 + depth * (SIDE - shore - 6), 1.5 + 3.0 * depth
        shade = dark if k % 2 else light
        if kind == "grass":
            polygon(
                canvas,
                [
                    (x - size, y),
                    (x - size * 0.8, y - size * 1.5),
                    (x, y - size * 0.4),
                    (x + size * 0.8, y - size * 1.5),
                    (x + size, y),
                ],
                shade,
                kind,
            )
        else:
            box(canvas, x - size * 1.6, y, x + size * 1.6, y + 0.5 + depth, shade, kind)


def _path(canvas: Canvas, rng: Generator, shore: int, colour: Colour) -> None:
    top, foot, bend = float(rng.uniform(30, SIDE - 30)), float(rng.uniform(0, SIDE)), float(rng.uniform(-25, 25))
    left, right = [], []
    for step in range(9):
        far = step / 8
        x = top + (foot - top) * far + bend * math.sin(math.tau * far)
        half = 2 + 20 * far * far
        y = shore + (SIDE - shore) * far
        left.append((x - half, y))
        right.append((x + half, y))
    polygon(canvas, [*left, *reversed(right)], colour, "path")


def _rocks(canvas: Canvas, rng: Generator, shore: int) -> None:
    grey = _varied(rng, (140, 142, 150))
    x, y = float(rng.uniform(15, SIDE - 30)), float(rng.uniform(shore + 8, SIDE - 6))
    for dx, size in ((0.0, 9.0), (12.0, 6.0)):
        polygon(
            canvas,
            [
                (x + dx - size, y),
                (x + dx - size * 0.7, y - size * 0.7),
                (x + dx, y - size),
                (x + dx + size * 0.8, y - size * 0.5),
                (x + dx + size, y),
            ],
            grey,
            "rocks",
        )
        polygon(
            canvas,
            [(x + dx - size * 0.6, y - size * 0.6), (x + dx, y - size), (x + dx + size * 0.2, y - size * 0.6)],
            lighter(grey, 0.4),
            "rocks",
        )


def _flowers(canvas: Canvas, rng: Generator, shore: int) -> None:
    petals = _varied(rng, ((244, 244, 240), (250, 214, 90), (230, 120, 160), (200, 90, 90))[int(rng.integers(4))])
    for x, y in zip(rng.uniform(4, SIDE - 4, 14), rng.uniform(shore + 5, SIDE - 3, 14), strict=True):
        disc(canvas, x, y, 2.2, petals, "flowers")
        disc(canvas, x, y, 0.8, (246, 190, 60), "flowers")


def _varied(rng: Generator, colour: Colour, amount: int = 14) -> Colour:
    red, green, blue = (
        min(255, max(0, base + int(step)))
        for base, step in zip(colour, rng.integers(-amount, amount + 1, 3), strict=True)
    )
    return red, green, blue
