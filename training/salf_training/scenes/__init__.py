"""Scenes: 224 x 224 pictures of named objects with exact masks, drawn from a seed with Pillow and numpy.

The world of the demonstration: a class is decided by three objects of which at least two are shown, everything else
(colours, places, background, parts) is random, and of everything drawn it is known where it is.
"""

from salf_training.scenes.background import BACKGROUND_CONCEPTS
from salf_training.scenes.canvas import SIDE
from salf_training.scenes.classes import CLASS_OBJECTS, CLASSES
from salf_training.scenes.compose import Scene, draw_scene, label_of
from salf_training.scenes.concepts import (
    ABSENT_CONCEPTS,
    CONCEPTS,
    DRAWN_ATTRIBUTES,
    DRAWN_CONCEPTS,
    DRAWN_OBJECTS,
    MASKED_CONCEPTS,
    PART_CONCEPTS,
)
from salf_training.scenes.errors import SceneError
from salf_training.scenes.files import read_masks
from salf_training.scenes.folder import SceneRecord, read_scenes, write_scenes

__all__ = [
    "ABSENT_CONCEPTS",
    "BACKGROUND_CONCEPTS",
    "CLASSES",
    "CLASS_OBJECTS",
    "CONCEPTS",
    "DRAWN_ATTRIBUTES",
    "DRAWN_CONCEPTS",
    "DRAWN_OBJECTS",
    "MASKED_CONCEPTS",
    "PART_CONCEPTS",
    "SIDE",
    "Scene",
    "SceneError",
    "SceneRecord",
    "draw_scene",
    "label_of",
    "read_masks",
    "read_scenes",
    "write_scenes",
]
