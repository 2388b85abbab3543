"""Which objects decide which class, and which objects a scene of a class shows.

Two classes share at most one deciding object, so the two or three shown of a class never speak for another one.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from numpy.random import Generator

CLASS_OBJECTS: Final[Mapping[str, tuple[str, str, str]]] = MappingProxyType(
    {
        "airfield": ("aeroplane", "helicopter", "balloon"),
        "beach": ("parasol", "sandcastle", "kite"),
        "camp": ("tent", "campfire", "tree"),
        "fair": ("ferris wheel", "balloon", "kite"),
        "farm": ("tractor", "windmill", "cow"),
        "garden": ("snowman", "house", "tree"),
        "harbour": ("sailboat", "lighthouse", "anchor"),
        "island": ("palm", "sailboat", "parasol"),
        "park": ("bench", "duck", "tree"),
        "station": ("train", "bench", "bus"),
        "street": ("car", "traffic light", "bus"),
        "village": ("house", "bicycle", "cow"),
    }
)
"""Class name -> the three objects that decide it."""

CLASSES: Final[tuple[str, ...]] = tuple(CLASS_OBJECTS)
"""Class names; a label is an index into this tuple."""

ALL_THREE_PROBABILITY: Final = 0.5


def choose_objects(rng: Generator, label: int) -> tuple[str, ...]:
    """The objects of one scene in random order: two or three that decide ``label`` and one to three from elsewhere.

    No class but ``label``'s has more than one of its three among them.
    """
    own = CLASS_OBJECTS[CLASSES[label]]
    missing = None if rng.random() < ALL_THREE_PROBABILITY else own[int(rng.integers(3))]
    shown = [name for name in own if name != missing]
    strangers = sorted({name for objects in CLASS_OBJECTS.values() for name in objects} - set(own))
    distractors = int(rng.integers(1, 4))
    for position in rng.permutation(len(strangers)):
        if distractors == 0:
            break
        if not _speaks_for_another([*shown, strangers[position]], label):
            shown.append(strangers[position])
            distractors -= 1
    return tuple(shown[position] for position in rng.permutation(len(shown)))


def _speaks_for_another(shown: list[str], label: int) -> bool:
    return any(len(set(objects) & set(shown)) >= 2 for name, objects in CLASS_OBJECTS.items() if name != CLASSES[label])
