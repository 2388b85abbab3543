"""Places on the source become weights of cells: the adjoint of `place_map`."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salf_contract import (
    Preparation,
    RegionError,
    array_to_picture,
    box_coverage,
    box_weights,
    mask_coverage,
    mask_weights,
    place_map,
    point_coverage,
    point_weights,
    prepare,
)

GEOMETRY = {"map_size": (3, 5), "source_size": (40, 20), "crop_box": (5.0, 0.0, 35.0, 20.0)}


@st.composite
def geometries(draw):
    width, height = draw(st.integers(4, 60)), draw(st.integers(4, 60))
    preparation = Preparation(
        height=draw(st.integers(4, 40)), width=draw(st.integers(4, 40)), crop_fraction=draw(st.floats(0.4, 1.0))
    )
    prepared = prepare(array_to_picture(np.zeros((height, width, 3), np.uint8)), preparation)
    map_size = (draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    return {"map_size": map_size, "source_size": prepared.source_size, "crop_box": prepared.crop_box}


@given(geometry=geometries(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=80, deadline=None)
def test_a_masks_weights_are_the_adjoint_of_laying_the_map_over_the_picture(geometry, seed):
    rng = np.random.default_rng(seed)
    width, height = geometry["source_size"]
    cells, mask = rng.normal(size=geometry["map_size"]).astype(np.float32), rng.random((height, width)) < 0.4
    placed = place_map(cells, source_size=geometry["source_size"], crop_box=geometry["crop_box"])
    seen = mask & np.isfinite(placed)
    if not seen.any():
        with pytest.raises(RegionError, match="marks nothing"):
            mask_weights(mask, **geometry)
        return
    weights = mask_weights(mask, **geometry)
    assert weights.dtype == np.float32
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert (weights >= 0).all()
    # Pillow samples an affine image in steps of 1/256 or so of a pixel.
    assert float((weights * cells).sum()) == pytest.approx(float(placed[seen].mean()), abs=2e-2)


@given(geometry=geometries(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_box_of_whole_pixels_is_the_mask_of_these_pixels(geometry, data):
    width, height = geometry["source_size"]
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    box = (float(left), float(top), float(right), float(bottom))
    try:
        expected = mask_weights(mask, **geometry)
    except RegionError:
        with pytest.raises(RegionError):
            box_weights(box, **geometry)
    else:
        assert np.allclose(box_weights(box, **geometry), expected, atol=1e-6)
    covered = box_coverage(box, map_size=geometry["map_size"], crop_box=geometry["crop_box"])
    assert np.allclose(covered, mask_coverage(mask, **geometry), atol=1e-5)


@given(geometry=geometries(), across=st.floats(0, 1), down=st.floats(0, 1), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_point_reads_the_map_where_it_lies(geometry, across, down, seed):
    left, top, right, bottom = geometry["crop_box"]
    x, y = min(left + across * (right - left), right), min(top + down * (bottom - top), bottom)
    cells = np.random.default_rng(seed).normal(size=geometry["map_size"]).astype(np.float32)
    weights = point_weights((x, y), **geometry)
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    column, row = int(min(x, geometry["source_size"][0] - 1)), int(min(y, geometry["source_size"][1] - 1))
    placed = place_map(cells, source_size=geometry["source_size"], crop_box=geometry["crop_box"])[row, column]
    if np.isfinite(placed):
        at_centre = left <= column + 0.5 <= right and top <= row + 0.5 <= bottom
        assert at_centre
        centre = point_weights((column + 0.5, row + 0.5), **geometry)
        assert float((centre * cells).sum()) == pytest.approx(float(placed), abs=2e-2)
    assert point_coverage((x, y), **geometry).sum() == 1


def test_the_whole_picture_covers_every_cell():
    whole = (0.0, 0.0, 40.0, 20.0)
    assert (box_coverage(whole, map_size=(3, 5), crop_box=GEOMETRY["crop_box"]) == 1).all()
    assert np.allclose(mask_coverage(np.ones((20, 40), bool), **GEOMETRY), 1)
    # One cell of the map is 6 x 6.67 pixels.
    one = box_coverage((5.0, 0.0, 8.0, 20.0), map_size=(3, 5), crop_box=GEOMETRY["crop_box"])
    assert np.allclose(one, [[0.5, 0, 0, 0, 0]] * 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: point_weights((2.0, 5.0), **GEOMETRY), "outside what the model saw: x 5 to 35"),
        (lambda: point_weights((float("nan"), 5.0), **GEOMETRY), "finite"),
        (lambda: point_coverage((36.0, 5.0), **GEOMETRY), "outside"),
        (lambda: box_weights((0.0, 0.0, 4.0, 20.0), **GEOMETRY), "marks nothing"),
        (lambda: box_weights((9.0, 0.0, 9.0, 20.0), **GEOMETRY), "left < right"),
        (lambda: box_weights((9.0, 0.0, 9.0), **GEOMETRY), "4 finite numbers"),
        (lambda: mask_weights(np.ones((40, 20), bool), **GEOMETRY), r"\[20, 40\]"),
        (lambda: mask_weights(np.zeros((20, 40), bool), **GEOMETRY), "marks nothing"),
        (lambda: mask_weights(np.full((20, 40), -1.0), **GEOMETRY), "not negative"),
        (lambda: mask_coverage(np.full((20, 40), 2.0), **GEOMETRY), "0 to 1"),
    ],
)
def test_places_that_mark_nothing_are_refused(call, words):
    with pytest.raises(RegionError, match=words):
        call()
