"""Concept maps laid over pictures, with numpy and Pillow alone."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from salf_contract import place_map

if TYPE_CHECKING:
    from salf_client.explanation import ConceptEvidence, Explanation

#: Blue for, orange against: apart for every kind of colour vision (Okabe and Ito's palette).
FOR, AGAINST = "#0072B2", "#D55E00"

#: Colours of rising evidence, dark to bright; apart from most pictures once those are greyed.
_HEAT_STOPS = np.array(
    [(0.20, 0.06, 0.38), (0.53, 0.13, 0.42), (0.83, 0.29, 0.30), (0.98, 0.56, 0.15), (0.99, 0.91, 0.45)]
)
_GREYED = 0.75
_MAX_MAPS = 4
_OPACITY = 0.8


def with_place(explanation: "Explanation") -> "list[ConceptEvidence]":
    """The strongest concepts that have a place to show: present, and stored with their maps; four at most."""
    return [concept for concept in explanation.concepts if concept.present and concept.map.size][:_MAX_MAPS]


def seen_only(picture: Image.Image, explanation: "Explanation") -> NDArray[np.uint8]:
    """The picture, pale where the model did not look.

    Args:
        picture: RGB, the source at any scale.
        explanation: gives the crop box.

    Returns:
        UINT8 [height,width,3] of `picture`'s size.
    """
    pixels = np.asarray(picture, dtype=np.float32)
    unseen = np.isnan(_placed(np.ones((1, 1), dtype=np.float32), picture, explanation))
    pixels = np.where(unseen[..., None], 0.3 * pixels + 0.7 * 255, pixels)
    return pixels.round().astype(np.uint8)


def with_heatmap(picture: Image.Image, explanation: "Explanation", concept: "ConceptEvidence") -> NDArray[np.uint8]:
    """The picture greyed, and coloured where the concept was seen: the brighter, the more of it.

    Args:
        picture: RGB, the source at any scale.
        explanation: gives the crop box.
        concept: whose map to lay over it.

    Returns:
        UINT8 [height,width,3] of `picture`'s size.
    """
    pixels = seen_only(picture, explanation).astype(np.float32) / 255
    grey = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    paper = _GREYED * (0.25 + 0.75 * grey[..., None]) + (1 - _GREYED) * pixels
    placed = _placed(concept.map, picture, explanation)
    # What is everywhere marks no place: only what rises above the map's lowest cell (or above 0) is coloured.
    floor, peak = max(0.0, float(concept.map.min())), float(concept.map.max())
    strength = np.nan_to_num((placed - floor) / max(peak - floor, 1e-12), nan=0.0).clip(0, 1)
    stops = np.linspace(0, 1, len(_HEAT_STOPS))
    colours = np.stack([np.interp(strength, stops, _HEAT_STOPS[:, channel]) for channel in range(3)], axis=-1)
    # Opacity rises late, so that weak evidence leaves the picture readable.
    opacity = _OPACITY * np.clip((strength - 0.2) / 0.6, 0, 1)[..., None]
    mixed = (1 - opacity) * paper + opacity * colours
    return np.asarray((mixed * 255).round().clip(0, 255), dtype=np.uint8)


def _placed(concept_map: NDArray[np.float32], picture: Image.Image, explanation: "Explanation") -> NDArray[np.float32]:
    """The map over the picture at its own scale, FP32 [height,width], NaN where the model did not look."""
    across = picture.width / explanation.source_size[0]
    down = picture.height / explanation.source_size[1]
    left, top, right, bottom = explanation.crop_box
    box = (left * across, top * down, right * across, bottom * down)
    return place_map(concept_map, source_size=picture.size, crop_box=box)
