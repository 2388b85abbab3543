"""One line of English about a scene, in many wordings, that names nothing invisible."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from numpy.random import Generator

from salf_training.scenes.background import GROUNDS, SKIES

RENAMING: Final = ("striped balloon", "striped parasol", "yellow car")
"""Attributes that already name their object; all others follow it after "with"."""
UNCOUNTED: Final = ("red fruit", "smoke")
NAME_CLASS_PROBABILITY: Final = 0.5
NAME_ATTRIBUTE_PROBABILITY: Final = 0.8
NAME_BACKGROUND_PROBABILITY: Final = 0.5
NAME_ALL_PROBABILITY: Final = 0.6

OPENINGS: Final = (
    "a picture of {}",
    "a drawing of {}",
    "{}",
    "{}",
    "here is {}",
    "you can see {}",
    "an illustration with {}",
)
CLASS_OPENINGS: Final = (
    "{place} with {things}",
    "a picture of {place}: {things}",
    "{place}, where there is {things}",
    "{things} in a scene called {name}",
    "in this picture of {place} there is {things}",
)
SURROUNDINGS: Final = {
    "sea": "by the sea",
    "hills": "in front of hills",
    "mountains": "in front of mountains",
    "forest": "in front of a forest",
    "skyline": "in front of a skyline",
    "sun": "in the sun",
    "moon": "under the moon",
    "stars": "under the stars",
    "clouds": "under clouds",
    "birds": "with birds in the air",
    "flowers": "among flowers",
    "path": "near a path",
    "rocks": "near rocks",
}


@dataclass(frozen=True)
class Sighting:
    """A visible object and the attributes visible on it."""

    name: str
    attributes: tuple[str, ...]


def write_caption(rng: Generator, class_name: str, sightings: Sequence[Sighting], background: Sequence[str]) -> str:
    """A caption that names one object at least (the background alone if there is none) and only what is visible."""
    setting = _setting(rng, background)
    if not sightings:
        return f"an empty place {setting}"
    order = [sightings[k] for k in rng.permutation(len(sightings))]
    if rng.random() >= NAME_ALL_PROBABILITY:
        order = order[: int(rng.integers(1, len(order) + 1))]
    things = _and([_describe(rng, sighting) for sighting in order])
    if rng.random() < NAME_CLASS_PROBABILITY:
        wording = CLASS_OPENINGS[int(rng.integers(len(CLASS_OPENINGS)))]
        sentence = wording.format(place=_a(class_name), things=things, name=class_name)
    else:
        sentence = OPENINGS[int(rng.integers(len(OPENINGS)))].format(things)
    return f"{sentence} {setting}" if rng.random() < NAME_BACKGROUND_PROBABILITY else sentence


def _setting(rng: Generator, background: Sequence[str]) -> str:
    """Where it all is, said with one visible background concept."""
    if not background:
        return "somewhere"
    concept = background[int(rng.integers(len(background)))]
    if concept in SKIES:
        return f"under {_a(concept)}"
    if concept in GROUNDS:
        return f"on {concept}"
    return SURROUNDINGS[concept]


def _describe(rng: Generator, sighting: Sighting) -> str:
    """An object with some of its attributes, as in "a house with a red roof and smoke"."""
    said = [name for name in sighting.attributes if rng.random() < NAME_ATTRIBUTE_PROBABILITY]
    name = next((attribute for attribute in said if attribute in RENAMING), sighting.name)
    extras = [_extra(attribute) for attribute in said if attribute not in RENAMING]
    return f"{_a(name)} with {_and(extras)}" if extras else _a(name)


def _extra(attribute: str) -> str:
    return attribute if attribute in UNCOUNTED else _a(attribute)


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _and(phrases: Sequence[str]) -> str:
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
