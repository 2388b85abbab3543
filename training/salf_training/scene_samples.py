"""What the demonstration encoder learns from: Scenes with captions, crops of objects, and circled places."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from salf_contract import Preparation
from salf_training.encoder_training import PromptedPictures
from salf_training.image_folder import batches_of_pixels
from salf_training.progress import Progress, silent
from salf_training.scenes import (
    BACKGROUND_CONCEPTS,
    CONCEPTS,
    DRAWN_ATTRIBUTES,
    DRAWN_OBJECTS,
    PART_CONCEPTS,
    SIDE,
    SceneRecord,
    read_masks,
)

_CROP_MARGIN_PX = 12
_KINDS = (DRAWN_OBJECTS, DRAWN_ATTRIBUTES, PART_CONCEPTS, BACKGROUND_CONCEPTS)
#: Of the circles; objects are what most of a head's reasons are about.
_KIND_SHARES = (0.4, 0.15, 0.25, 0.2)
_NO_CIRCLE = (np.nan, np.nan)
_Box = tuple[float, float, float, float]
_Place = tuple[float, float]


@dataclass(frozen=True)
class _Sample:
    picture: int
    box: _Box
    centre: _Place
    text: str
    true: tuple[str, ...]


def scene_samples(
    records: Sequence[SceneRecord],
    *,
    image_size: int,
    circles_per_scene: int,
    crops_per_scene: int,
    seed: int,
    on_progress: Progress = silent,
) -> PromptedPictures:
    """Choose places and crops, and name them by the exact masks.

    Args:
        records: scenes on disk.
        image_size: side of the pictures that are kept, in pixels.
        circles_per_scene: places per scene that get a red circle and the name of what lies there: an object, an
            attribute, a part, or something in the background.
        crops_per_scene: objects per scene that are cut out.
        seed: of the choices.
        on_progress: told after every batch of pictures.

    Returns:
        Samples whose texts begin with all concepts. Those that no scene shows (see ABSENT_CONCEPTS) are among them and
        fit no sample: a large encoder knows an escalator when it sees one, and that it sees none here.
    """
    preparation = Preparation(height=image_size, width=image_size)
    pixels: list[NDArray[np.uint8]] = []
    for batch in batches_of_pixels([record.path for record in records], preparation, batch_size=64):
        pixels.append(batch)
        on_progress("encoder data", min(64 * len(pixels), len(records)), len(records))
    generator = np.random.default_rng(seed)
    scale = image_size / SIDE
    samples: list[_Sample] = []
    whole = (0.0, 0.0, float(SIDE), float(SIDE))
    for index, record in enumerate(records):
        masks = {name: mask for name, mask in read_masks(record.mask_path).items() if mask.any()}
        # Of a whole picture, and of a piece of it, all that is somewhere in the picture may be true.
        there = tuple(masks)
        samples.append(_Sample(index, whole, _NO_CIRCLE, record.caption, there))
        for place, name in _circled(masks, circles_per_scene, generator):
            samples.append(_Sample(index, whole, place, name, _under(masks, place)))
        for box, name in _crops(masks, crops_per_scene, generator):
            samples.append(_Sample(index, box, _NO_CIRCLE, name, there))
    texts = [*CONCEPTS, *sorted({sample.text for sample in samples} - set(CONCEPTS))]
    position = {text: index for index, text in enumerate(texts)}
    true = np.zeros((len(samples), len(CONCEPTS)), np.bool_)
    for row, sample in enumerate(samples):
        true[row, [position[name] for name in sample.true]] = True
    return PromptedPictures(
        pixels=np.concatenate(pixels),
        picture=torch.tensor([sample.picture for sample in samples]),
        box=torch.tensor([sample.box for sample in samples], dtype=torch.float32) * scale,
        centre=torch.tensor([sample.centre for sample in samples], dtype=torch.float32) * scale,
        text=torch.tensor([position[sample.text] for sample in samples]),
        texts=texts,
        true=torch.from_numpy(true),
    )


def _circled(
    masks: Mapping[str, NDArray[np.bool_]], count: int, generator: np.random.Generator
) -> Iterator[tuple[_Place, str]]:
    """Places (y, x) in scene pixels on what is visible, and its name; first a kind of thing is chosen, then a thing."""
    kinds = [[name for name in kind if name in masks] for kind in _KINDS]
    shares = np.array([share if kind else 0.0 for share, kind in zip(_KIND_SHARES, kinds, strict=True)])
    for _ in range(count):
        kind = kinds[generator.choice(len(kinds), p=shares / shares.sum())]
        # Always by the bare name: "a car" and "car" in one batch would be each other's negatives.
        name = kind[generator.integers(len(kind))]
        places = np.flatnonzero(masks[name])
        y, x = divmod(int(places[generator.integers(len(places))]), SIDE)
        yield (y + 0.5, x + 0.5), name


def _under(masks: Mapping[str, NDArray[np.bool_]], place: _Place) -> tuple[str, ...]:
    """All that is visible at a place."""
    y, x = int(place[0]), int(place[1])
    return tuple(name for name, mask in masks.items() if mask[y, x])


def _crops(
    masks: Mapping[str, NDArray[np.bool_]], count: int, generator: np.random.Generator
) -> Iterator[tuple[_Box, str]]:
    """Square boxes (top, left, bottom, right) in scene pixels around objects, and the objects' names."""
    names = [name for name in masks if name in DRAWN_OBJECTS and masks[name].any()]
    for _ in range(count if names else 0):
        name = names[generator.integers(len(names))]
        y, x = (np.flatnonzero(masks[name].any(axis=axis)) for axis in (1, 0))
        first, last = np.array([y[0], x[0]]), np.array([y[-1], x[-1]]) + 1
        side = min(float((last - first).max()) + 2 * _CROP_MARGIN_PX, float(SIDE))
        top, left = np.clip((first + last - side) / 2, 0, SIDE - side).tolist()
        yield (top, left, top + side, left + side), name
