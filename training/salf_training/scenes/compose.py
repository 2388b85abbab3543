"""From a seed to a finished scene: background, objects, masks, caption."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from salf_training.scenes.background import BACKGROUND_CONCEPTS, Setting, draw_background
from salf_training.scenes.canvas import FACTOR, NOBODY, WHOLE, Box, Canvas
from salf_training.scenes.captions import Sighting, write_caption
from salf_training.scenes.classes import CLASSES, choose_objects
from salf_training.scenes.concepts import DRAWN_ATTRIBUTES, MASKED_CONCEPTS
from salf_training.scenes.errors import SceneError
from salf_training.scenes.objects import OBJECT_KINDS
from salf_training.scenes.pen import Pen
from salf_training.scenes.placing import Placement, place_objects

LEAST_VISIBLE: Final = 0.68
"""The part of an object's own area that must stay uncovered; above the promised 0.65 to leave room for rounding."""
LEAST_PART_PX: Final = 8
"""A part of which fewer pixels are visible counts as not there."""
LEAST_BACKGROUND_PX: Final = 24
ATTEMPTS: Final = 60
SHRINK_PER_ATTEMPT: Final = 0.97


class _Stream(IntEnum):
    """Independent random streams of one seed, so that the background cannot depend on what stands before it."""

    LABEL = 0
    BACKGROUND = 1
    PLACING = 2
    CAPTION = 3


@dataclass(frozen=True)
class Scene:
    """A picture with its ground truth.

    Attributes:
        image: RGB, 224 x 224.
        label: index into ``CLASSES``.
        caption: one English sentence or phrase about what is visible.
        masks: concept -> bool [224, 224], rows first: the pixels at least half covered by the concept's visible part.
            Exactly the objects, attributes, parts and background concepts that are there have one.
        background: background concepts of which something is visible.
        seed: what the scene was drawn from.
    """

    image: Image.Image
    label: int
    caption: str
    masks: Mapping[str, NDArray[np.bool_]]
    background: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class Arrangement:
    """A canvas with its objects: object k of ``placements`` is owner k + 1, its strokes lie within ``boxes[k]``."""

    canvas: Canvas
    placements: tuple[Placement, ...]
    boxes: tuple[Box, ...]


def draw_scene(seed: int, *, with_objects: bool = True) -> Scene:
    """Draw the scene of ``seed``: the same pixels every time, in every process.

    Args:
        seed: 0 or more.
        with_objects: without them the picture is the same background alone, with the same label and no masks.

    Raises:
        SceneError: ``seed`` is negative, or no arrangement shows enough of every object (never seen).
    """
    label = label_of(seed)
    arrangement = arrange(seed) if with_objects else Arrangement(draw_setting(seed)[0], (), ())
    counts = arrangement.canvas.counts()
    masks = _masks(arrangement, counts)
    background = tuple(
        name for name in BACKGROUND_CONCEPTS if counts.get((NOBODY, name), 0) >= LEAST_BACKGROUND_PX * FACTOR**2
    )
    sightings = _sightings(arrangement.placements, counts, masks)
    caption = write_caption(_stream(seed, _Stream.CAPTION), CLASSES[label], sightings, background)
    return Scene(arrangement.canvas.finish(), label, caption, masks, background, seed)


def label_of(seed: int) -> int:
    """The label of a seed's scene, uniform over the classes, without drawing it.

    Raises:
        SceneError: ``seed`` is negative.
    """
    return int(_stream(seed, _Stream.LABEL).integers(len(CLASSES)))


def draw_setting(seed: int) -> tuple[Canvas, Setting]:
    """The background of a seed's scene.

    Raises:
        SceneError: ``seed`` is negative.
    """
    canvas = Canvas()
    return canvas, draw_background(canvas, _stream(seed, _Stream.BACKGROUND))


def arrange(seed: int) -> Arrangement:
    """The background of a seed's scene with its objects, placed anew until nothing is hidden too much.

    Raises:
        SceneError: ``seed`` is negative, or ``ATTEMPTS`` arrangements failed.
    """
    empty, setting = draw_setting(seed)
    rng = _stream(seed, _Stream.PLACING)
    names = choose_objects(rng, label_of(seed))
    for attempt in range(ATTEMPTS):
        placements = place_objects(rng, names, setting, shrink=SHRINK_PER_ATTEMPT**attempt)
        arrangement, visible = draw_objects(empty, placements)
        if min(visible) >= LEAST_VISIBLE:
            return arrangement
    raise SceneError(f"seed {seed}: {ATTEMPTS} arrangements of {', '.join(names)} all hid too much; use another seed")


def draw_objects(empty: Canvas, placements: Sequence[Placement]) -> tuple[Arrangement, list[float]]:
    """Draw objects in the given order onto a copy of ``empty``.

    Returns:
        The arrangement, and for each object the part of its own area that stayed uncovered, 0 to 1.
    """
    canvas = Canvas(like=empty)
    boxes, areas = [], []
    for owner, placement in enumerate(placements, start=1):
        kind = OBJECT_KINDS[placement.name]
        pen = Pen(canvas, owner=owner, concept=placement.name, pose=placement.pose, pivot_y=kind.height / 2)
        kind.draw(pen, np.random.default_rng(placement.style_seed))
        boxes.append(pen.box)
        areas.append(canvas.counts(pen.box)[owner, placement.name])
    counts = canvas.counts()
    visible = [counts[k, placements[k - 1].name] / area for k, area in enumerate(areas, start=1)]
    return Arrangement(canvas, tuple(placements), tuple(boxes)), visible


def _stream(seed: int, stream: _Stream) -> Generator:
    if seed < 0:
        raise SceneError(f"a scene's seed must be 0 or more, got {seed}")
    return np.random.default_rng([seed, int(stream)])


def _masks(arrangement: Arrangement, counts: Mapping[tuple[int, str], int]) -> dict[str, NDArray[np.bool_]]:
    boxes, masks = arrangement.boxes, {}
    for concept in MASKED_CONCEPTS:
        owners = [owner for owner in range(len(boxes) + 1) if counts.get((owner, concept), 0) > 0]
        if not owners:
            continue
        box = WHOLE if NOBODY in owners else _around([boxes[owner - 1] for owner in owners])
        mask = arrangement.canvas.mask(concept, box)
        if np.count_nonzero(mask) >= LEAST_PART_PX:
            masks[concept] = mask
    return masks


def _around(boxes: Sequence[Box]) -> Box:
    lefts, uppers, rights, lowers = zip(*boxes, strict=True)
    return min(lefts), min(uppers), max(rights), max(lowers)


def _sightings(
    placements: Sequence[Placement], counts: Mapping[tuple[int, str], int], masks: Mapping[str, NDArray[np.bool_]]
) -> tuple[Sighting, ...]:
    """Each object with the attributes that can be seen on it."""
    least = LEAST_PART_PX * FACTOR**2
    return tuple(
        Sighting(
            placement.name,
            tuple(
                concept for concept in DRAWN_ATTRIBUTES if concept in masks and counts.get((owner, concept), 0) >= least
            ),
        )
        for owner, placement in enumerate(placements, start=1)
    )
