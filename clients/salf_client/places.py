"""Places on the source picture, as callers give them, and what they become for a model's cells."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salf_client.errors import InvalidRegionError
from salf_contract import (
    Prepared,
    RegionError,
    box_coverage,
    box_weights,
    mask_coverage,
    mask_weights,
    point_coverage,
    point_weights,
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A point, a box or a mask, in pixels of the upright source picture; none of them: everywhere.

    Attributes:
        point: (x, y), fractional; a pixel's centre is at .5.
        box: (left, top, right, bottom), fractional.
        mask: [height,width], bool or weights.
    """

    point: tuple[float, float] | None = None
    box: tuple[float, float, float, float] | None = None
    mask: NDArray[np.generic] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        given = [name for name in ("point", "box", "mask") if getattr(self, name) is not None]
        if len(given) > 1:
            raise InvalidRegionError(f"a place is a point, a box or a mask, but {' and '.join(given)} were given")
        if self.mask is not None and not isinstance(self.mask, np.ndarray):
            raise InvalidRegionError(f"a mask must be a numpy array, but this is a {type(self.mask).__name__}")

    @property
    def is_everywhere(self) -> bool:
        """Whether it is no place in particular."""
        return self.point is None and self.box is None and self.mask is None

    def weights(self, prepared: Prepared, map_size: tuple[int, int]) -> NDArray[np.float32]:
        """Weights of cells whose weighted sum of a map is its mean over the place; FP32 [h,w], sum 1.

        Raises:
            InvalidRegionError: it marks nothing that the model saw.
        """
        source: dict[str, Any] = {"source_size": prepared.source_size, "crop_box": prepared.crop_box}
        try:
            if self.point is not None:
                return point_weights(self.point, map_size=map_size, **source)
            if self.box is not None:
                return box_weights(self.box, map_size=map_size, **source)
            if self.mask is not None:
                return mask_weights(self.mask, map_size=map_size, **source)
        except (RegionError, TypeError) as error:
            raise InvalidRegionError(str(error)) from error
        return np.full(map_size, 1 / (map_size[0] * map_size[1]), dtype=np.float32)

    def coverage(self, prepared: Prepared, map_size: tuple[int, int]) -> NDArray[np.float32]:
        """Which share of each cell the place covers; FP32 [h,w], 0..1.

        Raises:
            InvalidRegionError: it marks nothing that the model saw.
        """
        try:
            if self.point is not None:
                covered = point_coverage(
                    self.point, map_size=map_size, source_size=prepared.source_size, crop_box=prepared.crop_box
                )
            elif self.box is not None:
                covered = box_coverage(self.box, map_size=map_size, crop_box=prepared.crop_box)
            elif self.mask is not None:
                covered = mask_coverage(
                    self.mask, map_size=map_size, source_size=prepared.source_size, crop_box=prepared.crop_box
                )
            else:
                return np.ones(map_size, dtype=np.float32)
        except (RegionError, TypeError) as error:
            raise InvalidRegionError(str(error)) from error
        if not covered.any():
            raise InvalidRegionError("the place of the edit covers nothing that the model saw")
        return covered
