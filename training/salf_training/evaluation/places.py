"""Do heatmaps lie where things are? Concept maps on concepts, class maps on what decides the class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from salf_contract import place_map
from salf_training.evaluation.document import ConceptPlaces, Segmentation, Verdict
from salf_training.evaluation.explainers import EVIDENCE, GRAD_CAM, INTEGRATED
from salf_training.evaluation.metrics import (
    Mask,
    PixelCounts,
    PixelsByValue,
    above_mean,
    average_precision,
    count_pixels,
    energy_inside,
    no_pixels,
    pixels_by_value,
    same_area,
)
from salf_training.localisation import TOLERANCE_PX, widened


@dataclass(frozen=True)
class ConceptCase:
    """One visible concept's figures in one picture; fields as in `ConceptPlaces`."""

    decides: bool
    hit: bool
    centre_hit: bool
    random_hit: float
    iou: float
    iou_same_area: float
    energy_inside: float
    mask_share: float


def over_picture(heatmap: NDArray[np.float32], *, height: int, width: int) -> NDArray[np.float32]:
    """Lay a map over the whole picture, bilinearly: FP32 [h,w] -> [height,width]."""
    if heatmap.shape == (height, width):
        return heatmap
    box = (0.0, 0.0, float(width), float(height))
    return place_map(heatmap, source_size=(width, height), crop_box=box)


def concept_case(concept_map: NDArray[np.float32], mask: Mask, *, decides: bool) -> ConceptCase:
    """Judge one concept map FP32 [h,w] by its mask BOOL [H,W], which is not empty.

    Args:
        concept_map: raw or standardised.
        mask: where the concept is.
        decides: whether the head weighs the concept for any class.
    """
    height, width = mask.shape
    placed = over_picture(concept_map, height=height, width=width)
    near = widened(mask, TOLERANCE_PX)
    return ConceptCase(
        decides=decides,
        hit=bool(near.flat[int(placed.argmax())]),
        centre_hit=bool(near[height // 2, width // 2]),
        random_hit=float(near.mean()),
        iou=count_pixels(above_mean(placed), mask).foreground_iou,
        iou_same_area=count_pixels(same_area(placed, mask), mask).foreground_iou,
        energy_inside=energy_inside(placed, mask),
        mask_share=float(mask.mean()),
    )


def concept_places(cases: Sequence[ConceptCase]) -> ConceptPlaces | None:
    """Means over all cases; None without any."""
    if not cases:
        return None

    def mean(name: str) -> float:
        return float(np.mean([getattr(case, name) for case in cases]))

    return ConceptPlaces(
        cases=len(cases),
        tolerance_px=TOLERANCE_PX,
        pointing_game=mean("hit"),
        pointing_game_centre=mean("centre_hit"),
        pointing_game_random=mean("random_hit"),
        iou=mean("iou"),
        iou_same_area=mean("iou_same_area"),
        energy_inside=mean("energy_inside"),
        mask_share=mean("mask_share"),
    )


@dataclass
class SegmentationSums:
    """One method's counts so far."""

    by_mean: PixelCounts = field(default_factory=PixelCounts)
    by_area: PixelCounts = field(default_factory=PixelCounts)
    halves: list[PixelsByValue] = field(default_factory=lambda: [no_pixels(), no_pixels()])
    precisions: list[float] = field(default_factory=list)

    def add(self, heatmap: NDArray[np.float32], truth: Mask) -> None:
        """Count one picture: FP32 [h,w] against BOOL [H,W]."""
        placed = over_picture(heatmap, height=truth.shape[0], width=truth.shape[1])
        self.by_mean += count_pixels(above_mean(placed), truth)
        self.by_area += count_pixels(same_area(placed, truth), truth)
        self.halves[len(self.precisions) % 2] += pixels_by_value(placed, truth)
        self.precisions.append(average_precision(placed, truth))

    def figures(self) -> Segmentation:
        """What was counted, as shares."""
        first, second = self.halves
        chosen = first.above(second.best_line()) + second.above(first.best_line())
        return Segmentation(
            pixel_accuracy=self.by_mean.accuracy,
            mean_iou=self.by_mean.mean_iou,
            average_precision=float(np.mean(self.precisions)) if self.precisions else 0.0,
            pixel_accuracy_same_area=self.by_area.accuracy,
            mean_iou_same_area=self.by_area.mean_iou,
            pixel_accuracy_chosen_line=chosen.accuracy,
            mean_iou_chosen_line=chosen.mean_iou,
        )


def verdicts(segmentation: Mapping[str, Segmentation]) -> tuple[Verdict, ...]:
    """SALF-CBM's evidence maps against each post-hoc method that was measured, figure by figure."""
    if EVIDENCE not in segmentation:
        return ()
    ours = segmentation[EVIDENCE]
    names = tuple(Segmentation.model_fields)
    return tuple(
        Verdict(over=other, **{name: getattr(ours, name) > getattr(segmentation[other], name) for name in names})
        for other in (GRAD_CAM, INTEGRATED)
        if other in segmentation
    )
