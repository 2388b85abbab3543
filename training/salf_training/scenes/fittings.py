"""Parts that several objects share and that come and go at random: the drawn attributes."""

from numpy.random import Generator

from salf_training.scenes.colours import GLASS, INK, LAMPLIGHT, WARM_REDS, Colour, chance, lighter, paint, tone
from salf_training.scenes.pen import Pen


def flag(pen: Pen, rng: Generator, x: float, y: float, length: float) -> None:
    """A pole standing on (x, y) with a pennant: the attribute "flag"."""
    cloth = paint(rng, without=("white", "grey"))
    pen.line([(x, y - 0.04), (x, y + length)], 0.022, INK, "flag")
    pen.polygon([(x, y + length), (x + length * 1.1, y + length * 0.68), (x, y + length * 0.36)], cloth, "flag")


def door(pen: Pen, rng: Generator, left: float, foot: float, width: float, height: float) -> None:
    """A door with a knob; now and then the attribute "blue door"."""
    blue = chance(rng, 0.4)
    colour = tone(rng, "blue") if blue else paint(rng, without=("blue", "sky", "teal", "violet"))
    part = "blue door" if blue else ""
    pen.rect(left, foot, left + width, foot + height, colour, part)
    pen.dome(left + width / 2, foot + height, width / 2, width / 3, colour, part)
    pen.disc(left + width * 0.78, foot + height * 0.5, 0.014, LAMPLIGHT, "door knob")


def round_window(pen: Pen, x: float, y: float, radius: float) -> None:
    """A framed round pane: the attribute "round window"."""
    pen.disc(x, y, radius, INK, "round window")
    pen.disc(x, y, radius * 0.72, GLASS, "round window")


def window(pen: Pen, left: float, foot: float, width: float, height: float, *, lit: bool) -> None:
    """A rectangular pane with a frame: the attribute "lit window" if ``lit``."""
    part = "lit window" if lit else ""
    pane = LAMPLIGHT if lit else GLASS
    frame = 0.018
    pen.rect(left - frame, foot - frame, left + width + frame, foot + height + frame, INK, part)
    pen.rect(left, foot, left + width, foot + height, pane, part)
    pen.polygon(
        [
            (left, foot + height * 0.4),
            (left, foot + height),
            (left + width * 0.6, foot + height),
        ],
        lighter(pane, 0.5),
        part,
    )


def smoke(pen: Pen, rng: Generator, x: float, y: float) -> None:
    """Puffs that rise from (x, y) and drift to one side: the attribute "smoke"."""
    grey = tone(rng, "grey" if chance(rng, 0.5) else "white")
    drift = float(rng.uniform(-0.09, 0.09))
    for step, radius in enumerate((0.05, 0.07, 0.09, 0.075)):
        centre = x + drift * step + (0.02 if step % 2 else -0.02)
        pen.puff(centre, y + 0.03 + 0.09 * step, radius, lighter(grey, 0.12 * step), "smoke")


def roof_paint(rng: Generator) -> tuple[Colour, str]:
    """A colour for a roof and the part it makes: "red roof" or nothing."""
    if chance(rng, 0.45):
        return tone(rng, "red"), "red roof"
    return paint(rng, without=WARM_REDS), ""


def wheel(pen: Pen, x: float, y: float, radius: float, hub: Colour) -> None:
    """A tyre with a hub cap."""
    pen.disc(x, y, radius, INK, "tyre")
    pen.disc(x, y, radius * 0.55, hub)
    pen.disc(x, y, radius * 0.18, INK)
