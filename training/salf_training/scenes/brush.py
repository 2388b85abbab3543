"""Strokes of the background: coordinates in pixels from the upper left corner; everything belongs to nobody."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from salf_training.scenes.canvas import FACTOR, NOBODY, SUBSIDE, Canvas, fill
from salf_training.scenes.colours import Colour


def gradient(canvas: Canvas, top: int, bottom: int, first: Colour, last: Colour, concept: str) -> None:
    """Fill the rows ``top`` to ``bottom`` (pixels) from one colour to another."""
    rows = (bottom - top) * FACTOR
    column = np.empty((rows, 1, 4), np.uint8)
    column[:, 0, :3] = np.linspace(first, last, rows).round()
    column[:, 0, 3] = canvas.code(NOBODY, {concept})
    canvas.image.paste(Image.fromarray(column).resize((SUBSIDE, rows), Image.Resampling.NEAREST), (0, top * FACTOR))


def polygon(canvas: Canvas, points: list[tuple[float, float]], colour: Colour, concept: str) -> None:
    """Fill a polygon."""
    canvas.draw.polygon([(x * FACTOR, y * FACTOR) for x, y in points], fill(colour, canvas.code(NOBODY, {concept})))


def box(canvas: Canvas, x0: float, y0: float, x1: float, y1: float, colour: Colour, concept: str) -> None:
    """Fill the rectangle between two corners."""
    corners = (x0 * FACTOR, y0 * FACTOR, x1 * FACTOR - 1, y1 * FACTOR - 1)
    canvas.draw.rectangle(corners, fill(colour, canvas.code(NOBODY, {concept})))


def disc(canvas: Canvas, x: float, y: float, radius: float, colour: Colour, concept: str) -> None:
    """Fill a circle."""
    box = ((x - radius) * FACTOR, (y - radius) * FACTOR, (x + radius) * FACTOR, (y + radius) * FACTOR)
    canvas.draw.ellipse(box, fill(colour, canvas.code(NOBODY, {concept})))


def stroke(canvas: Canvas, points: Sequence[tuple[float, float]], colour: Colour, concept: str) -> None:
    """Draw a thin line through the points."""
    ink = fill(colour, canvas.code(NOBODY, {concept}))
    canvas.draw.line([(x * FACTOR, y * FACTOR) for x, y in points], ink, FACTOR + 1, joint="curve")
