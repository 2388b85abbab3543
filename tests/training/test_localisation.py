"""The pointing game on masks drawn by hand."""

import numpy as np
import pytest

from salf_training.localisation import (
    PointingCase,
    centre_point_hits,
    pointing_cases,
    pointing_hits,
    random_point_rate,
    widened,
)

HEIGHT, WIDTH = 60, 120


def box(top: int, left: int, bottom: int, right: int, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("tolerance", [0, 1, 15])
def test_a_mask_grows_by_the_tolerance_on_every_side_and_stops_at_the_border(tolerance):
    assert np.array_equal(
        widened(box(20, 30, 25, 40), tolerance),
        box(20 - tolerance, 30 - tolerance, 25 + tolerance, 40 + tolerance),
    )
    assert np.array_equal(widened(box(0, 118, 3, 120), tolerance), box(0, 118 - tolerance, 3 + tolerance, 120))


def test_every_visible_concept_that_counts_is_a_case():
    masks = [
        {"sail": box(0, 0, 9, 9), "cow": box(0, 0, 9, 9)},
        {"sail": box(0, 0, 0, 0), "tree": box(5, 5, 9, 9)},
    ]
    cases = pointing_cases(
        masks,
        concepts={"tree": 4, "sail": 7},
        deciding=lambda picture, name: (picture, name) == (0, "sail"),
        tolerance_px=0,
    )
    assert [(case.picture, case.concept, case.decides) for case in cases] == [(0, 7, True), (1, 4, False)]
    assert np.array_equal(cases[1].mask, box(5, 5, 9, 9))


def peak(row: int, column: int, shape: tuple[int, int] = (3, 6)) -> np.ndarray:
    """Rises towards one cell; a map whose height and width cannot be swapped unnoticed."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (-np.hypot(y - row, x - column)).astype(np.float32)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 5), (2, 0), (2, 5), (1, 3)])
def test_a_map_hits_the_cell_that_it_peaks_in_and_no_other(row, column):
    cases = [
        PointingCase(0, 0, box(20 * r, 20 * c, 20 * r + 20, 20 * c + 20), decides=False)
        for r in range(3)
        for c in range(6)
    ]
    hits = pointing_hits(cases, lambda picture, concept: peak(row, column))
    assert hits.dtype == np.bool_
    assert hits.reshape(3, 6)[row, column]
    assert hits.sum() == 1


def test_the_map_is_asked_for_by_picture_and_concept():
    cases = [PointingCase(2, 5, box(0, 0, 20, 20), decides=True), PointingCase(1, 3, box(0, 0, 20, 20), decides=True)]
    corner = {(2, 5): peak(0, 0), (1, 3): peak(2, 5)}
    assert pointing_hits(cases, lambda picture, concept: corner[picture, concept]).tolist() == [True, False]


def test_negative_maps_have_a_maximum_too():
    case = PointingCase(0, 0, box(20, 40, 40, 60), decides=True)
    assert pointing_hits([case], lambda *_: peak(1, 2) - 100).tolist() == [True]


def test_the_tolerance_decides_a_near_miss():
    # The map's maximum lies about the pixel (30, 50).
    for tolerance, hit in ((5, False), (15, True)):
        cases = pointing_cases(
            [{"sail": box(28, 62, 34, 70)}], concepts={"sail": 0}, deciding=lambda *_: True, tolerance_px=tolerance
        )
        assert pointing_hits(cases, lambda *_: peak(1, 2)).tolist() == [hit]


def test_the_baselines_are_the_centre_and_the_share_of_the_picture():
    cases = [
        PointingCase(0, 0, box(29, 59, 31, 61), decides=True),
        PointingCase(0, 1, box(0, 0, 60, 30), decides=True),
        PointingCase(0, 2, box(0, 0, 60, 120), decides=True),
    ]
    assert centre_point_hits(cases).tolist() == [True, False, True]
    assert random_point_rate(cases) == pytest.approx((4 / 7200 + 0.25 + 1) / 3)
    assert random_point_rate([]) == 0


def test_random_pointing_hits_as_often_as_its_rate_says():
    generator = np.random.default_rng(0)
    cases = [PointingCase(0, 0, widened(box(20, 30, 30, 45), 10), decides=True)] * 4000
    points = generator.integers(0, (HEIGHT, WIDTH), size=(len(cases), 2))
    hits = [case.mask[y, x] for case, (y, x) in zip(cases, points, strict=True)]
    assert np.mean(hits) == pytest.approx(random_point_rate(cases), abs=0.03)
