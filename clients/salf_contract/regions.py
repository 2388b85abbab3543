"""From places on the source picture to cells of a concept map: what lies beside `place_map`, in the other direction.

Two questions are asked. *What is here?* weighs cells so that the weighted sum of a map is the mean, over the place, of
the map laid over the picture: the adjoint of `place_map`. *What if it were changed here?* says which share of each cell
the place covers. Both depend on the geometry alone.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from salf_contract.errors import RegionError

#: (left, top, right, bottom) in source pixels, fractional; a pixel's left edge has its whole number.
Box: TypeAlias = tuple[float, float, float, float]


def point_weights(
    point: tuple[float, float], *, map_size: tuple[int, int], source_size: tuple[int, int], crop_box: Box
) -> NDArray[np.float32]:
    """Weights that read a map at one point, bilinearly.

    Args:
        point: (x, y) in source pixels, fractional; a pixel's centre is at .5.
        map_size: (h, w) of the concept maps.
        source_size: (width, height) of the source in pixels.
        crop_box: what the model saw.

    Returns:
        FP32 [h,w], sum 1.

    Raises:
        RegionError: the point is outside what the model saw.
    """
    x, y = _finite(point, "a point", 2)
    left, top, right, bottom = crop_box
    if not (left <= x <= right and top <= y <= bottom):
        raise RegionError(f"the point ({x:g}, {y:g}) lies outside what the model saw: {_named(crop_box, source_size)}")
    rows = _hats(np.array([y]), map_size[0], top, bottom)[0]
    columns = _hats(np.array([x]), map_size[1], left, right)[0]
    return np.outer(rows, columns).astype(np.float32)


def box_weights(
    box: Box, *, map_size: tuple[int, int], source_size: tuple[int, int], crop_box: Box
) -> NDArray[np.float32]:
    """Weights that take a map's mean over a box; pixels at its edges count by the share that lies inside.

    Args:
        box: of any size above zero; what lies outside the crop does not count.
        map_size: (h, w) of the concept maps.
        source_size: (width, height) of the source in pixels.
        crop_box: what the model saw.

    Returns:
        FP32 [h,w], sum 1.

    Raises:
        RegionError: the box is empty, or wholly outside what the model saw.
    """
    left, top, right, bottom = _checked_box(box)
    width, height = source_size
    down = _pixel_shares(top, bottom, height) @ _laid_rows(map_size[0], height, crop_box[1], crop_box[3])
    across = _pixel_shares(left, right, width) @ _laid_rows(map_size[1], width, crop_box[0], crop_box[2])
    return _normalised(np.outer(down, across), "the box", crop_box, source_size)


def mask_weights(
    mask: NDArray[np.generic], *, map_size: tuple[int, int], source_size: tuple[int, int], crop_box: Box
) -> NDArray[np.float32]:
    """Weights that take a map's mean over a mask.

    Args:
        mask: [height,width] over the source, bool or weights of at least 0.
        map_size: (h, w) of the concept maps.
        source_size: (width, height) of the source in pixels.
        crop_box: what the model saw.

    Returns:
        FP32 [h,w], sum 1.

    Raises:
        RegionError: another shape, negative or infinite weights, or nothing marked where the model looked.
    """
    weights = _checked_mask(mask, source_size)
    width, height = source_size
    rows = _laid_rows(map_size[0], height, crop_box[1], crop_box[3])
    columns = _laid_rows(map_size[1], width, crop_box[0], crop_box[2])
    return _normalised(rows.T @ weights @ columns, "the mask", crop_box, source_size)


def box_coverage(box: Box, *, map_size: tuple[int, int], crop_box: Box) -> NDArray[np.float32]:
    """Which share of each cell a box covers.

    Returns:
        FP32 [h,w], 0..1.

    Raises:
        RegionError: the box is empty.
    """
    left, top, right, bottom = _checked_box(box)
    down = _cell_shares(top, bottom, map_size[0], crop_box[1], crop_box[3])
    across = _cell_shares(left, right, map_size[1], crop_box[0], crop_box[2])
    return np.outer(down, across).astype(np.float32)


def mask_coverage(
    mask: NDArray[np.generic], *, map_size: tuple[int, int], source_size: tuple[int, int], crop_box: Box
) -> NDArray[np.float32]:
    """Which share of each cell a mask covers.

    Args:
        mask: [height,width] over the source, bool or 0..1.
        map_size: (h, w) of the concept maps.
        source_size: (width, height) of the source in pixels.
        crop_box: what the model saw.

    Returns:
        FP32 [h,w], 0..1.

    Raises:
        RegionError: another shape, or values outside 0..1.
    """
    shares = _checked_mask(mask, source_size)
    if shares.max(initial=0.0) > 1:
        raise RegionError(f"a mask for an edit holds 0 to 1, but this one goes up to {shares.max():g}")
    width, height = source_size
    rows = _cell_pixels(map_size[0], height, crop_box[1], crop_box[3])
    columns = _cell_pixels(map_size[1], width, crop_box[0], crop_box[2])
    return (rows @ shares @ columns.T).clip(0, 1).astype(np.float32)


def point_coverage(
    point: tuple[float, float], *, map_size: tuple[int, int], source_size: tuple[int, int], crop_box: Box
) -> NDArray[np.float32]:
    """1 in the cell in which a point lies, 0 elsewhere; FP32 [h,w].

    Raises:
        RegionError: the point is outside what the model saw.
    """
    x, y = _finite(point, "a point", 2)
    left, top, right, bottom = crop_box
    if not (left <= x <= right and top <= y <= bottom):
        raise RegionError(f"the point ({x:g}, {y:g}) lies outside what the model saw: {_named(crop_box, source_size)}")
    cells = np.zeros(map_size, dtype=np.float32)
    row = min(int((y - top) / (bottom - top) * map_size[0]), map_size[0] - 1)
    column = min(int((x - left) / (right - left) * map_size[1]), map_size[1] - 1)
    cells[row, column] = 1
    return cells


def _hats(positions: NDArray[np.float64], cells: int, start: float, end: float) -> NDArray[np.float64]:
    """Weights of each cell at positions: linear between centres, the outermost repeated beyond; [positions,cells]."""
    at = ((positions - start) / (end - start) * cells - 0.5).clip(0, cells - 1)
    return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(cells)[None, :]))


def _laid_rows(cells: int, pixels: int, start: float, end: float) -> NDArray[np.float64]:
    """How `place_map` makes pixels of cells along one axis, zero where the model did not look; [pixels,cells]."""
    centres = np.arange(pixels, dtype=np.float64) + 0.5
    seen = (centres >= start) & (centres <= end)
    return _hats(centres, cells, start, end) * seen[:, None]


def _pixel_shares(start: float, end: float, pixels: int) -> NDArray[np.float64]:
    """Which share of each pixel lies between two positions; [pixels]."""
    edges = np.arange(pixels + 1)
    return (np.minimum(edges[1:], end) - np.maximum(edges[:-1], start)).clip(0, 1)


def _cell_shares(start: float, end: float, cells: int, crop_start: float, crop_end: float) -> NDArray[np.float64]:
    """Which share of each cell lies between two positions; [cells]."""
    edges = np.linspace(crop_start, crop_end, cells + 1)
    overlap = np.minimum(edges[1:], end) - np.maximum(edges[:-1], start)
    return (overlap / (edges[1:] - edges[:-1])).clip(0, 1)


def _cell_pixels(cells: int, pixels: int, start: float, end: float) -> NDArray[np.float64]:
    """Which share of a cell each pixel is; rows sum to 1; [cells,pixels]."""
    edges = np.linspace(start, end, cells + 1)
    pixel = np.arange(pixels)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return np.asarray(overlap.clip(0, None) / (edges[1:] - edges[:-1])[:, None])


def _normalised(
    weights: NDArray[np.float64], what: str, crop_box: Box, source_size: tuple[int, int]
) -> NDArray[np.float32]:
    total = weights.sum()
    if total <= 0:
        raise RegionError(f"{what} marks nothing that the model saw: {_named(crop_box, source_size)}")
    return np.asarray(weights / total, dtype=np.float32)


def _checked_box(box: Box) -> Box:
    left, top, right, bottom = _finite(box, "a box", 4)
    if not (left < right and top < bottom):
        raise RegionError(
            f"a box is (left, top, right, bottom) with left < right and top < bottom, but this one is {tuple(box)}"
        )
    return left, top, right, bottom


def _checked_mask(mask: NDArray[np.generic], source_size: tuple[int, int]) -> NDArray[np.float64]:
    width, height = source_size
    if mask.shape != (height, width) or mask.dtype.kind not in "buif":
        raise RegionError(
            f"a mask must be an array of numbers or bools [{height}, {width}], as the picture is upright, "
            f"but this one is {mask.dtype} {list(mask.shape)}"
        )
    weights = mask.astype(np.float64)
    if not np.isfinite(weights).all() or weights.min(initial=0.0) < 0:
        raise RegionError("a mask's values must be finite and not negative")
    return weights


def _finite(numbers: tuple[float, ...], what: str, count: int) -> tuple[float, ...]:
    try:
        found = tuple(float(number) for number in numbers)
    except (TypeError, ValueError, OverflowError):  # whatever untyped callers give
        found = ()
    if len(found) != count or not np.isfinite(found).all():
        raise RegionError(f"{what} is {count} finite numbers in source pixels, but this one is {numbers!r}")
    return found


def _named(crop_box: Box, source_size: tuple[int, int]) -> str:
    left, top, right, bottom = crop_box
    size = f"{source_size[0]} x {source_size[1]} pixels"
    return f"x {left:g} to {right:g} and y {top:g} to {bottom:g} of a picture of {size}"
