"""Draws one object in its own coordinates onto a canvas.

Coordinates are those of the object: x to the right with 0 in the middle, y *up* from 0 at the foot; the longer side
of an object is 1. The pen places, scales, tilts and flips.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from salf_training.scenes.canvas import FACTOR, SUBSIDE, Box, Canvas, fill
from salf_training.scenes.colours import Colour

Point = tuple[float, float]
CIRCLE: Final = tuple((math.cos(math.tau * k / 40), math.sin(math.tau * k / 40)) for k in range(40))


@dataclass(frozen=True)
class Pose:
    """Where an object stands: foot point and size in pixels, tilt in degrees (counter-clockwise before flipping)."""

    x_px: float
    foot_px: float
    size_px: float
    tilt_deg: float
    flip: bool


class Pen:
    """Strokes of one object, which all carry its concept unless said otherwise."""

    def __init__(self, canvas: Canvas, *, owner: int, concept: str, pose: Pose, pivot_y: float) -> None:
        self._canvas = canvas
        self._owner = owner
        self._concepts = frozenset({concept})
        self._scale = pose.size_px * FACTOR
        self._mirror = -1.0 if pose.flip else 1.0
        self._cos, self._sin = math.cos(math.radians(pose.tilt_deg)), math.sin(math.radians(pose.tilt_deg))
        self._pivot_y = pivot_y
        self._x, self._y = pose.x_px * FACTOR, pose.foot_px * FACTOR
        self._low_x = self._low_y = float(SUBSIDE)
        self._high_x = self._high_y = 0.0

    def label(self, concept: str) -> None:
        """Let every later stroke show ``concept`` too."""
        self._concepts |= {concept}

    def polygon(self, points: Sequence[Point], colour: Colour, part: str = "") -> None:
        """Fill a polygon."""
        mapped = self._place(points, 0.0)
        self._canvas.draw.polygon(mapped, fill(colour, self._code(part)))

    def rect(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, part: str = "") -> None:
        """Fill the rectangle between two corners."""
        self.polygon(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), colour, part)

    def disc(self, x: float, y: float, radius: float, colour: Colour, part: str = "") -> None:
        """Fill a circle."""
        self._canvas.draw.ellipse(self._around(x, y, radius), fill(colour, self._code(part)))

    def ring(self, x: float, y: float, radius: float, width: float, colour: Colour, part: str = "") -> None:
        """Draw a circle's line, ``width`` thick inwards from ``radius``."""
        thick = max(1, round(width * self._scale))
        self._canvas.draw.ellipse(
            self._around(x, y, radius), fill=None, outline=fill(colour, self._code(part)), width=thick
        )

    def oval(
        self, x: float, y: float, rx: float, ry: float, colour: Colour, part: str = "", *, turn_deg: float = 0.0
    ) -> None:
        """Fill an ellipse with the given radii, turned counter-clockwise."""
        cos, sin = math.cos(math.radians(turn_deg)), math.sin(math.radians(turn_deg))
        points = [(x + rx * u * cos - ry * v * sin, y + rx * u * sin + ry * v * cos) for u, v in CIRCLE]
        self.polygon(points, colour, part)

    def dome(self, x: float, y: float, rx: float, ry: float, colour: Colour, part: str = "") -> None:
        """Fill the upper half of an ellipse (the lower half if ``ry`` is negative)."""
        self.polygon([(x + rx * u, y + ry * v) for u, v in CIRCLE[:21]], colour, part)

    def line(self, points: Sequence[Point], width: float, colour: Colour, part: str = "") -> None:
        """Draw a line with round ends through the points."""
        thick = max(1.0, width * self._scale)
        mapped = self._place(points, thick / 2)
        ink = fill(colour, self._code(part))
        self._canvas.draw.line(mapped, ink, round(thick))
        radius = (thick - 1) / 2
        for x, y in mapped:
            self._canvas.draw.ellipse((x - radius, y - radius, x + radius, y + radius), ink)

    def puff(self, x: float, y: float, radius: float, colour: Colour, concept: str) -> None:
        """Fill a circle that shows ``concept`` but is no piece of the object (smoke is not part of a house)."""
        code = self._canvas.code(self._owner, {concept})
        self._canvas.draw.ellipse(self._around(x, y, radius), fill(colour, code))

    @property
    def box(self) -> Box:
        """The smallest box of whole pixels around everything drawn so far, cut at the canvas."""
        low_x, low_y = (max(0, int(v) // FACTOR - 1) * FACTOR for v in (self._low_x, self._low_y))
        high_x, high_y = (min(SUBSIDE, (int(v) // FACTOR + 2) * FACTOR) for v in (self._high_x, self._high_y))
        return min(low_x, SUBSIDE), min(low_y, SUBSIDE), max(low_x, high_x), max(low_y, high_y)

    def _code(self, part: str) -> int:
        return self._canvas.code(self._owner, self._concepts | {part} if part else self._concepts)

    def _around(self, x: float, y: float, radius: float) -> tuple[float, float, float, float]:
        reach = radius * self._scale
        ((cx, cy),) = self._place(((x, y),), reach)
        return cx - reach, cy - reach, cx + reach, cy + reach

    def _place(self, points: Sequence[Point], margin: float) -> list[Point]:
        """Object coordinates to sub-pixels; remembers how far they reach, ``margin`` sub-pixels included."""
        placed = []
        for x, y in points:
            up = y - self._pivot_y
            across = self._mirror * (x * self._cos - up * self._sin)
            above = x * self._sin + up * self._cos + self._pivot_y
            placed.append((self._x + across * self._scale, self._y - above * self._scale))
        for x, y in placed:
            self._low_x, self._high_x = min(self._low_x, x - margin), max(self._high_x, x + margin)
            self._low_y, self._high_y = min(self._low_y, y - margin), max(self._high_y, y + margin)
        return placed
