"""What the demonstration encoder learns from: Scenes with captions, crops of objects, and circled places."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from salf_contract import Preparation
from salf_training.encoder_training import PromptedPictures
from salf_training.image_folder import batches_of_pixels
from salf_training.progress import Progress, silent
from salf_training.scenes import DRAWN_OBJECTS, SIDE, SceneRecord, read_masks

_NOTHING = "empty background"
_CROP_MARGIN_PX = 12
_Sample = tuple[int, tuple[float, float, float, float], tuple[float, float], str]


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
        circles_per_scene: places per scene that get a red circle; about a quarter of them on the background.
        crops_per_scene: objects per scene that are cut out.
        seed: of the choices.
        on_progress: told after every batch of pictures.
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
        masks = read_masks(record.mask_path)
        samples.append((index, whole, (np.nan, np.nan), record.caption))
        samples.extend((index, whole, *circled) for circled in _circled(masks, circles_per_scene, generator))
        samples.extend((index, box, (np.nan, np.nan), text) for box, text in _crops(masks, crops_per_scene, generator))
    texts = sorted({text for *_, text in samples})
    position = {text: index for index, text in enumerate(texts)}
    return PromptedPictures(
        pixels=np.concatenate(pixels),
        picture=torch.tensor([sample[0] for sample in samples]),
        box=torch.tensor([sample[1] for sample in samples], dtype=torch.float32) * scale,
        centre=torch.tensor([sample[2] for sample in samples], dtype=torch.float32) * scale,
        text=torch.tensor([position[sample[3]] for sample in samples]),
        texts=texts,
    )


def _circled(
    masks: Mapping[str, NDArray[np.bool_]], count: int, generator: np.random.Generator
) -> Iterator[tuple[tuple[float, float], str]]:
    """Places (y, x) in scene pixels and their names: three in four on a drawn concept, the others anywhere."""
    places = {name: np.argwhere(mask) for name, mask in masks.items()}
    names = [name for name, found in places.items() if len(found)]
    for _ in range(count):
        if names and generator.random() < 0.75:
            name = names[generator.integers(len(names))]
            y, x = places[name][generator.integers(len(places[name]))] + 0.5
        else:
            y, x = generator.uniform(0, SIDE, size=2)
            under = [name for name in names if masks[name][int(y), int(x)]]
            if under:
                name = under[generator.integers(len(under))]
            else:
                yield (y, x), _NOTHING
                continue
        # Always by the bare name: "a car" and "car" in one batch would be each other's negatives.
        yield (y, x), name


def _crops(
    masks: Mapping[str, NDArray[np.bool_]], count: int, generator: np.random.Generator
) -> Iterator[tuple[tuple[float, float, float, float], str]]:
    """Square boxes (top, left, bottom, right) in scene pixels around objects, and the objects' names."""
    names = [name for name in masks if name in DRAWN_OBJECTS and masks[name].any()]
    for _ in range(count if names else 0):
        name = names[generator.integers(len(names))]
        y, x = (np.flatnonzero(masks[name].any(axis=axis)) for axis in (1, 0))
        first, last = np.array([y[0], x[0]]), np.array([y[-1], x[-1]]) + 1
        side = min(float((last - first).max()) + 2 * _CROP_MARGIN_PX, float(SIDE))
        top, left = np.clip((first + last - side) / 2, 0, SIDE - side).tolist()
        yield (top, left, top + side, left + side), name
