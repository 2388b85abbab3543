"""Where the objects of a scene stand: at random, on the ground or in the air, beside rather than upon each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from numpy.random import Generator

from salf_training.scenes.background import Setting
from salf_training.scenes.canvas import SIDE
from salf_training.scenes.objects import OBJECT_KINDS, ObjectKind
from salf_training.scenes.pen import Pose

SMALLEST_PX: Final = 50.0
LARGEST_PX: Final = 105.0
CROWDED_LARGEST_PX: Final = {3: 105.0, 4: 96.0, 5: 88.0, 6: 80.0}
"""Number of objects -> the largest size, so that many objects still find room."""
THIN_WIDTH: Final = 0.67
THIN_SMALLEST_PX: Final = 66.0
CANDIDATES: Final = 24
GOOD_OVERLAP: Final = 0.06
EDGE_PX: Final = 2.0

Corners = tuple[float, float, float, float]
"""Left, upper, right, lower, in pixels."""


@dataclass(frozen=True)
class Placement:
    """One object to draw. ``style_seed`` fixes its colours and parts, whatever stands around it."""

    name: str
    pose: Pose
    style_seed: int


def place_objects(rng: Generator, names: Sequence[str], setting: Setting, *, shrink: float = 1.0) -> list[Placement]:
    """Places for all ``names``, in the order in which to draw them (far to near).

    Args:
        rng: where the randomness comes from; it moves on.
        names: 3 to 6 keys of ``OBJECT_KINDS``.
        setting: where sky, sea and ground are.
        shrink: factor on sizes, above ``SMALLEST_PX`` still; smaller when an earlier try hid too much.
    """
    taken: list[Corners] = []
    placements = []
    for name in names:
        kind = OBJECT_KINDS[name]
        size = _size(rng, kind, len(names), shrink)
        corners = _best_corners(rng, kind, size, setting, taken)
        taken.append(corners)
        pose = Pose(
            x_px=(corners[0] + corners[2]) / 2,
            foot_px=corners[3],
            size_px=size,
            tilt_deg=float(rng.uniform(-kind.tilt_deg, kind.tilt_deg)),
            flip=bool(rng.random() < 0.5),
        )
        placements.append(Placement(name, pose, int(rng.integers(2**31))))
    return sorted(placements, key=_nearness)


def _nearness(placement: Placement) -> tuple[bool, float]:
    return OBJECT_KINDS[placement.name].place != "sky", placement.pose.foot_px


def _size(rng: Generator, kind: ObjectKind, count: int, shrink: float) -> float:
    smallest = THIN_SMALLEST_PX if kind.width < THIN_WIDTH else SMALLEST_PX
    largest = max(CROWDED_LARGEST_PX[count] * shrink, smallest + 4)
    return float(rng.uniform(smallest, largest))


def _best_corners(rng: Generator, kind: ObjectKind, size: float, setting: Setting, taken: Sequence[Corners]) -> Corners:
    """The first of some random places that is nearly free, else the freest."""
    best: Corners = (0.0, 0.0, 0.0, 0.0)
    least = float("inf")
    for across, down in rng.random((CANDIDATES, 2)).tolist():
        corners = _corners(kind, size, setting, across, down)
        overlap = max((_overlap(corners, other) for other in taken), default=0.0)
        if overlap <= GOOD_OVERLAP:
            return corners
        if overlap < least:
            best, least = corners, overlap
    return best


def _corners(kind: ObjectKind, size: float, setting: Setting, across: float, down: float) -> Corners:
    """The box of an object at ``across`` and ``down``, both 0 to 1 of the room there is."""
    width, height = kind.width * size, kind.height * size
    low, high = _foot_range(kind, height, setting)
    foot = low + down * (high - low)
    left = EDGE_PX + across * (SIDE - 2 * EDGE_PX - width)
    return left, foot - height, left + width, foot


def _foot_range(kind: ObjectKind, height: float, setting: Setting) -> tuple[float, float]:
    """The highest and the lowest row for an object's foot."""
    topmost = height + EDGE_PX
    if kind.place == "sky":
        return topmost, max(topmost + 1.0, setting.horizon_px + 12.0)
    if kind.place == "water" and setting.shore_px > setting.horizon_px:
        return max(topmost, setting.horizon_px + 8.0), max(topmost + 1.0, setting.shore_px - 2.0)
    return max(topmost, setting.shore_px + 6.0), SIDE - EDGE_PX


def _overlap(first: Corners, second: Corners) -> float:
    """Shared area as a part of the smaller box, 0 to 1."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return width * height / smaller
