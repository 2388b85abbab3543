"""Figures about heatmaps and masks, on arrays.

Pixel accuracy, mIoU: Chefer, Gur & Wolf, "Transformer interpretability beyond attention visualization", CVPR 2021: a
pixel is foreground when its value is above the map's mean; counts are summed over all pictures.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Heatmap = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

#: Steps of a map's range that a line between foreground and background is looked for at. Fine, because a cubed map
#: has most of its range above most of its pixels.
LINES = 1000


@dataclass(frozen=True)
class PixelCounts:
    """Pixels by truth and decision, summed over pictures."""

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0
    true_negative: int = 0

    def __add__(self, other: "PixelCounts") -> "PixelCounts":
        return PixelCounts(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
            self.true_negative + other.true_negative,
        )

    @property
    def accuracy(self) -> float:
        """Share of pixels that are decided right."""
        right = self.true_positive + self.true_negative
        return _share(right, right + self.false_positive + self.false_negative)

    @property
    def foreground_iou(self) -> float:
        """Intersection over union of the foreground; 0 when there is none anywhere."""
        return _share(self.true_positive, self.true_positive + self.false_positive + self.false_negative)

    @property
    def mean_iou(self) -> float:
        """Mean of the foreground's and the background's intersection over union."""
        wrong = self.false_positive + self.false_negative
        return (self.foreground_iou + _share(self.true_negative, self.true_negative + wrong)) / 2


def count_pixels(decided: Mask, truth: Mask) -> PixelCounts:
    """Compare two masks BOOL [H,W]."""
    both = int((decided & truth).sum())
    found, wanted = int(decided.sum()), int(truth.sum())
    return PixelCounts(both, found - both, wanted - both, truth.size - found - wanted + both)


def above_mean(heatmap: Heatmap) -> Mask:
    """The pixels above the map's own mean: [H,W] -> BOOL [H,W]."""
    return np.asarray(heatmap > heatmap.mean())


def same_area(heatmap: Heatmap, truth: Mask) -> Mask:
    """As many pixels as the truth has, those of largest value: no threshold favours any method. BOOL [H,W]."""
    wanted = int(truth.sum())
    if wanted == 0:
        return np.zeros(heatmap.shape, dtype=np.bool_)
    least = np.partition(heatmap, heatmap.size - wanted, axis=None)[heatmap.size - wanted]
    decided = np.asarray(heatmap > least)
    ties = np.flatnonzero(heatmap == least)  # by place
    decided.flat[ties[: wanted - int(decided.sum())]] = True
    return decided


@dataclass(frozen=True)
class PixelsByValue:
    """Pixels of pictures by their value's share of their map's range: INT64 [lines], inside and outside the truth."""

    inside: NDArray[np.int64]
    outside: NDArray[np.int64]

    def __add__(self, other: "PixelsByValue") -> "PixelsByValue":
        return PixelsByValue(self.inside + other.inside, self.outside + other.outside)

    def above(self, line: int) -> PixelCounts:
        """What is decided when the foreground begins at `line`, 0 to LINES - 1."""
        found, wrong = int(self.inside[line:].sum()), int(self.outside[line:].sum())
        return PixelCounts(found, wrong, int(self.inside.sum()) - found, int(self.outside.sum()) - wrong)

    def best_line(self) -> int:
        """The line of largest mIoU, the lowest of equals."""
        return int(np.argmax([self.above(line).mean_iou for line in range(LINES)]))


def pixels_by_value(heatmap: Heatmap, truth: Mask) -> PixelsByValue:
    """Sort the pixels of one picture into LINES equal steps of the map's range; a flat map is all in the first."""
    low, high = float(heatmap.min()), float(heatmap.max())
    share = (heatmap.astype(np.float64) - low) / (high - low) if high > low else np.zeros(heatmap.shape)
    step = np.minimum((share * LINES).astype(np.int64), LINES - 1)
    return PixelsByValue(np.bincount(step[truth], minlength=LINES), np.bincount(step[~truth], minlength=LINES))


def no_pixels() -> PixelsByValue:
    """Nothing counted yet."""
    return PixelsByValue(np.zeros(LINES, np.int64), np.zeros(LINES, np.int64))


def average_precision(heatmap: Heatmap, truth: Mask) -> float:
    """Area under precision over recall when pixels are taken by value, equal values together; 0 without any truth."""
    wanted = int(truth.sum())
    if wanted == 0:
        return 0.0
    order = np.argsort(-heatmap, axis=None, kind="stable")
    values, hits = heatmap.flat[order], truth.flat[order].cumsum()
    last_of_value = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
    precision = hits[last_of_value] / (last_of_value + 1)
    recall = hits[last_of_value] / wanted
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def energy_inside(heatmap: Heatmap, truth: Mask) -> float:
    """Share of the map's height above its minimum that lies inside the mask: 0 to 1; of a flat map, the mask's share.

    Source: the energy-based pointing game of Wang et al., "Score-CAM", CVPR workshops 2020.
    """
    height = heatmap.astype(np.float64) - float(heatmap.min())
    total = float(height.sum())
    return float(height[truth].sum()) / total if total > 0 else float(truth.mean())


def area_under(curve: NDArray[np.float64]) -> float:
    """Trapezoid area under equidistant values over 0..1: [S+1] -> number; S is 1 or more."""
    return float((curve[:-1] + curve[1:]).mean() / 2)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
