"""The concept list that models are trained with, and its subsets by origin."""

from typing import Final

from salf_training.scenes.background import BACKGROUND_CONCEPTS
from salf_training.scenes.objects import OBJECT_KINDS

DRAWN_OBJECTS: Final[tuple[str, ...]] = tuple(OBJECT_KINDS)
"""Each decides at least one class."""

DRAWN_ATTRIBUTES: Final[tuple[str, ...]] = (
    "blue door",
    "flag",
    "flower basket",
    "lit window",
    "red fruit",
    "red roof",
    "round window",
    "scarf",
    "smoke",
    "striped balloon",
    "striped parasol",
    "striped sail",
    "yellow car",
)
"""Parts and properties that come and go whatever the class is."""

DRAWN_CONCEPTS: Final[tuple[str, ...]] = DRAWN_OBJECTS + DRAWN_ATTRIBUTES
"""What captions name besides the background."""

PART_CONCEPTS: Final[tuple[str, ...]] = (
    "anchor ring", "armrest", "battlements", "bicycle wheel", "bow on a string", "bumper", "cabin of a wheel",
    "car window", "carrot nose", "castle gate", "chimney", "chimney of an engine", "coconuts", "cow horns", "cow legs",
    "crown of leaves", "door knob", "duck bill", "duck feet", "engine bonnet", "exhaust pipe", "flames", "fronds",
    "gable", "glass cockpit", "handlebar", "headlight", "hull", "jib", "kite tail", "landing skids", "lantern room",
    "logs", "mast", "mill sails", "patched coat", "pole", "red lamp", "rotor blades", "saddle", "slats",
    "spokes", "stick arms", "stones in a ring", "tail fin", "tail rotor", "tent opening", "top hat", "tree trunk",
    "tyre", "udder", "wing of a bird", "wing of an aeroplane", "wicker basket", "wooden seat",
)  # fmt: skip
"""Parts of drawn objects, with masks; no caption names them."""

MASKED_CONCEPTS: Final[tuple[str, ...]] = DRAWN_CONCEPTS + PART_CONCEPTS + BACKGROUND_CONCEPTS
"""Every concept that has a mask where it is visible."""

ABSENT_CONCEPTS: Final[tuple[str, ...]] = (
    "accordion", "astronaut", "bathtub", "book", "bookshelf", "camel", "camera", "candle", "chandelier", "chess board",
    "computer", "crocodile", "dinosaur", "dolphin", "drum", "elephant", "escalator", "football pitch", "fork",
    "giraffe", "goldfish bowl", "grand piano", "guitar", "hedgehog", "hospital bed", "igloo", "jellyfish", "kangaroo",
    "keyboard", "kitchen sink", "lobster", "microscope", "mushroom", "necklace", "octopus", "owl", "penguin",
    "pineapple", "pizza", "pyramid", "robot", "rocket", "saxophone", "scissors", "sewing machine", "shark", "sofa",
    "spider", "submarine", "suspension bridge", "telephone", "telescope", "television", "tennis racket", "tiger",
    "toothbrush", "trumpet", "typewriter", "umbrella stand", "violin", "volcano", "washing machine", "waterfall",
    "wedding cake", "whale", "zebra",
)  # fmt: skip
"""Phrases for things that no scene shows: a model must learn that they are not there."""

CONCEPTS: Final[tuple[str, ...]] = MASKED_CONCEPTS + ABSENT_CONCEPTS
"""All phrases, lower-case and without duplicates, in a fixed order."""
