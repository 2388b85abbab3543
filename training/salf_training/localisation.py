"""The pointing game: does a concept's map have its maximum on the concept?

Source: Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016; tolerance 15 pixels as there.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from salf_contract import place_map

TOLERANCE_PX = 15


@dataclass(frozen=True)
class PointingCase:
    """One concept that is present in one picture.

    Attributes:
        picture: index of the picture.
        concept: index of the concept.
        mask: BOOL [H,W] in source pixels, where a point counts as a hit: the concept and the tolerance around it.
        decides: whether the concept decides the picture's class.
    """

    picture: int
    concept: int
    mask: NDArray[np.bool_]
    decides: bool


def widened(mask: NDArray[np.bool_], tolerance_px: int = TOLERANCE_PX) -> NDArray[np.bool_]:
    """All pixels within the tolerance of the mask (square neighbourhood): BOOL [H,W]."""
    return _widened_down(_widened_down(mask, tolerance_px).T, tolerance_px).T


def _widened_down(mask: NDArray[np.bool_], tolerance_px: int) -> NDArray[np.bool_]:
    # Whether any row within the tolerance is set: the same time for any tolerance, unlike a maximum filter.
    counts = np.pad(mask, ((tolerance_px + 1, tolerance_px), (0, 0))).cumsum(axis=0, dtype=np.int32)
    within: NDArray[np.bool_] = counts[2 * tolerance_px + 1 :] > counts[: -2 * tolerance_px - 1]
    return within


def pointing_cases(
    masks: Iterable[Mapping[str, NDArray[np.bool_]]],
    *,
    concepts: Mapping[str, int],
    deciding: Callable[[int, str], bool],
    tolerance_px: int = TOLERANCE_PX,
) -> tuple[PointingCase, ...]:
    """List every case: each of the given concepts in each picture where it is visible.

    Args:
        masks: per picture, concept -> BOOL [H,W].
        concepts: name -> index of the concepts that count.
        deciding: (picture, name) -> whether the concept decides the picture's class.
        tolerance_px: source pixels around the mask that still count.
    """
    return tuple(
        PointingCase(picture, concepts[name], widened(mask, tolerance_px), deciding(picture, name))
        for picture, in_picture in enumerate(masks)
        for name, mask in in_picture.items()
        if name in concepts and mask.any()
    )


def pointing_hits(
    cases: Iterable[PointingCase], map_of: Callable[[int, int], NDArray[np.float32]]
) -> NDArray[np.bool_]:
    """Place each case's map over the whole picture and look where its maximum lies.

    Args:
        cases: what is where.
        map_of: (picture, concept) -> FP32 [h,w].

    Returns:
        BOOL, one per case.
    """
    return np.array([_hit(case.mask, map_of(case.picture, case.concept)) for case in cases], dtype=np.bool_)


def _hit(mask: NDArray[np.bool_], concept_map: NDArray[np.float32]) -> bool:
    height, width = mask.shape
    placed = place_map(concept_map, source_size=(width, height), crop_box=(0.0, 0.0, float(width), float(height)))
    return bool(mask.flat[int(placed.argmax())])


def centre_point_hits(cases: Iterable[PointingCase]) -> NDArray[np.bool_]:
    """Baseline that always points at the picture's centre."""
    return np.array([case.mask[case.mask.shape[0] // 2, case.mask.shape[1] // 2] for case in cases], dtype=np.bool_)


def random_point_rate(cases: Iterable[PointingCase]) -> float:
    """Expected hit rate of a uniformly random point, exactly: the mean share of the picture that counts."""
    shares = [float(case.mask.mean()) for case in cases]
    return float(np.mean(shares)) if shares else 0.0
