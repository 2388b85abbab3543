"""Where a concept map lies on the source picture."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def place_map(
    concept_map: NDArray[np.float32],
    *,
    source_size: tuple[int, int],
    crop_box: tuple[float, float, float, float],
) -> NDArray[np.float32]:
    """Lay a map over its source picture, bilinearly, cell centres on cell centres.

    Args:
        concept_map: FP32 [h,w].
        source_size: (width, height) of the source in pixels.
        crop_box: (left, top, right, bottom) in source pixels: the part that the model saw.

    Returns:
        FP32 [height,width]; NaN where the model did not look.
    """
    width, height = source_size
    left, top, right, bottom = crop_box
    rows, columns = concept_map.shape
    # Source pixel centre -> position in the map's own pixel grid, which Pillow's affine transform samples.
    affine = (
        columns / (right - left),
        0.0,
        -left * columns / (right - left),
        0.0,
        rows / (bottom - top),
        -top * rows / (bottom - top),
    )
    # Edge cells are repeated once on each side: beyond the outermost cell centres there is nothing to blend with.
    padded = Image.fromarray(np.pad(concept_map.astype(np.float32), 1, mode="edge"))
    shifted = (affine[0], 0.0, affine[2] + 1, 0.0, affine[4], affine[5] + 1)
    placed = np.array(padded.transform((width, height), Image.Transform.AFFINE, shifted, Image.Resampling.BILINEAR))
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    seen = ((y >= top) & (y <= bottom))[:, None] & ((x >= left) & (x <= right))[None, :]
    return np.where(seen, placed, np.float32(np.nan)).astype(np.float32)
