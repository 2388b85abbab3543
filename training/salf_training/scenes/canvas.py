"""A supersampled picture that remembers, per sub-pixel, what was drawn there last.

The picture is RGBA, but its fourth channel is no opacity: it holds a *code* that stands for an owner (which placed
object) and the concepts shown. One stroke writes colour and code together, so masks are exact without a second drawing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from salf_training.scenes.colours import Colour
from salf_training.scenes.errors import SceneError

SIDE: Final = 224
"""Width and height of a finished picture, in pixels."""
FACTOR: Final = 3
"""Sub-pixels per pixel along each axis."""
SUBSIDE: Final = SIDE * FACTOR
NOBODY: Final = 0
"""The owner of everything that belongs to the background."""
OUTLINE_SUBPIXELS: Final = 2
OUTLINE_STRENGTH: Final = 0.62

Box = tuple[int, int, int, int]
"""Left, upper, right, lower in sub-pixels; multiples of ``FACTOR``."""
WHOLE: Final[Box] = (0, 0, SUBSIDE, SUBSIDE)


@dataclass(frozen=True)
class Code:
    """What one value of the fourth channel stands for."""

    owner: int
    concepts: frozenset[str]


class Canvas:
    """A square of ``SUBSIDE`` x ``SUBSIDE`` sub-pixels with a colour and a code each."""

    def __init__(self, *, like: "Canvas | None" = None) -> None:
        """An empty canvas, or a copy of ``like`` that can be drawn on separately."""
        self.image: Image.Image = Image.new("RGBA", (SUBSIDE, SUBSIDE)) if like is None else like.image.copy()
        self.draw = ImageDraw.Draw(self.image)
        # The position in this dict is the code's value; the first stands for a sub-pixel never drawn on.
        self.codes: dict[Code, int] = {Code(NOBODY, frozenset()): 0} if like is None else dict(like.codes)

    def code(self, owner: int, concepts: Iterable[str]) -> int:
        """The value of the fourth channel for ``concepts`` of ``owner``, the same for the same question.

        Raises:
            SceneError: all 255 values are taken.
        """
        value = self.codes.setdefault(Code(owner, frozenset(concepts)), len(self.codes))
        if value > 255:
            raise SceneError("a scene can hold 255 different combinations of object and part; this one needs more")
        return value

    def counts(self, box: Box = WHOLE) -> dict[tuple[int, str], int]:
        """(owner, concept) -> how many sub-pixels in ``box`` show it right now."""
        histogram = self.image.crop(box).getchannel("A").histogram()
        seen: dict[tuple[int, str], int] = {}
        for code, value in self.codes.items():
            for concept in code.concepts:
                seen[code.owner, concept] = seen.get((code.owner, concept), 0) + histogram[value]
        return seen

    def mask(self, concept: str, box: Box = WHOLE) -> NDArray[np.bool_]:
        """The pixels at least half covered by ``concept``, whoever owns it: bool [SIDE, SIDE], rows first.

        Nothing outside ``box`` is looked at, which only saves time.
        """
        table = [255 if concept in code.concepts else 0 for code in self.codes]
        table += [0] * (256 - len(table))
        covered = self.image.crop(box).getchannel("A").point(table).reduce(FACTOR)
        mask = np.zeros((SIDE, SIDE), np.bool_)
        left, upper, right, lower = (edge // FACTOR for edge in box)
        mask[upper:lower, left:right] = np.asarray(covered) >= 128
        return mask

    def finish(self) -> Image.Image:
        """The picture at ``SIDE`` x ``SIDE``, RGB, with a thin dark line around every object."""
        small = np.asarray(self.image.convert("RGB").reduce(FACTOR), np.float32)
        shade = 1.0 - OUTLINE_STRENGTH * self._outline()
        return Image.fromarray((small * shade[:, :, None] + 0.5).astype(np.uint8))

    def _outline(self) -> NDArray[np.float32]:
        """How much of each pixel lies on an object's edge: float32 [SIDE, SIDE], 0 to 1.

        The line is drawn inside the object, so it never changes a pixel that no object covers.
        """
        table = [code.owner for code in self.codes] + [0] * (256 - len(self.codes))
        owner = np.asarray(self.image.getchannel("A").point(table))
        edge = np.zeros_like(owner, np.bool_)
        step = OUTLINE_SUBPIXELS
        for ahead, behind in (
            ((slice(step, None), slice(None)), (slice(None, -step), slice(None))),
            ((slice(None), slice(step, None)), (slice(None), slice(None, -step))),
        ):
            differs = owner[ahead] != owner[behind]
            edge[ahead] |= differs
            edge[behind] |= differs
        edge &= owner != NOBODY
        covered = Image.fromarray(edge.view(np.uint8) * np.uint8(255)).reduce(FACTOR)
        return np.asarray(covered, np.float32) / np.float32(255)


def fill(colour: Colour, code: int) -> tuple[int, int, int, int]:
    """``colour`` and ``code`` as Pillow wants them."""
    return (colour[0], colour[1], colour[2], code)
