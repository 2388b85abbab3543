"""Pictures of the report: what the model got most wrong, and how heatmaps of several methods compare."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from salf_training.evaluation.metrics import Mask
from salf_training.evaluation.places import over_picture

_SHOWN_SIDE = 168
#: Dark violet to yellow, after matplotlib's inferno, at equal distances.
_COLOURS = np.array(
    [[0, 0, 4], [51, 10, 95], [120, 28, 109], [186, 54, 85], [237, 105, 37], [251, 181, 26], [252, 255, 164]],
    dtype=np.float64,
)


@dataclass(frozen=True)
class Reason:
    """One concept's part in a decision."""

    concept: str
    contribution: float
    present: bool


@dataclass(frozen=True)
class WrongPicture:
    """One of the pictures with the largest loss.

    Attributes:
        name: of the file.
        truth: its class.
        predicted: the model's class.
        probability: of the predicted class.
        truth_probability: of the true class.
        picture: data URI.
        predicted_map: data URI: class map of the predicted class over the picture.
        truth_map: the same of the true class.
        reasons: what spoke most for the predicted class.
    """

    name: str
    truth: str
    predicted: str
    probability: float
    truth_probability: float
    picture: str
    predicted_map: str
    truth_map: str
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class ComparedPicture:
    """One picture, its mask, and each method's heatmap over it, as data URIs."""

    name: str
    truth: str
    picture: str
    mask: str
    heatmaps: Mapping[str, str]


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """UINT8 [H,W,3] as a JPEG inside the document."""
    image = Image.fromarray(pixels)
    image.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def with_heatmap(pixels: NDArray[np.uint8], heatmap: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Lay a heatmap over a picture, from its smallest value (dark) to its largest: UINT8 [H,W,3], FP32 [h,w]."""
    height, width = pixels.shape[:2]
    placed = over_picture(heatmap, height=height, width=width).astype(np.float64)
    low, high = float(placed.min()), float(placed.max())
    level = (placed - low) / (high - low) if high > low else np.zeros_like(placed)
    stops = np.linspace(0, 1, len(_COLOURS))
    colours = np.stack([np.interp(level, stops, _COLOURS[:, channel]) for channel in range(3)], axis=-1)
    return np.asarray((0.4 * pixels + 0.6 * colours).round().astype(np.uint8))


def with_mask(pixels: NDArray[np.uint8], mask: Mask) -> NDArray[np.uint8]:
    """The picture with everything outside the mask faded: UINT8 [H,W,3], BOOL [H,W] of any size."""
    height, width = pixels.shape[:2]
    resized = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    return np.where(resized[..., None], pixels, (0.2 * pixels + 0.8 * 245).round().astype(np.uint8))


def reasons(
    contributions: NDArray[np.float32], scores: NDArray[np.float32], concepts: Sequence[str], *, count: int
) -> tuple[Reason, ...]:
    """The concepts that contribute most, by size: FP32 [M] each."""
    order = np.argsort(-np.abs(contributions), kind="stable")[:count]
    return tuple(
        Reason(concepts[index], float(contributions[index]), bool(scores[index] > 0))
        for index in order
        if contributions[index] != 0
    )
