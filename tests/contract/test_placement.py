import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salf_contract import place_map


def placed_slowly(concept_map, source_size, crop_box):
    """The definition: pixel centres, bilinear between cell centres, edge cells repeated, NaN outside the box."""
    width, height = source_size
    left, top, right, bottom = crop_box
    h, w = concept_map.shape
    out = np.full((height, width), np.nan)
    for y in range(height):
        for x in range(width):
            if not (left <= x + 0.5 <= right and top <= y + 0.5 <= bottom):
                continue
            u = np.clip((x + 0.5 - left) / (right - left) * w - 0.5, 0, w - 1)
            v = np.clip((y + 0.5 - top) / (bottom - top) * h - 0.5, 0, h - 1)
            u0, v0 = min(int(u), w - 1), min(int(v), h - 1)
            u1, v1 = min(u0 + 1, w - 1), min(v0 + 1, h - 1)
            row0 = concept_map[v0, u0] * (1 - (u - u0)) + concept_map[v0, u1] * (u - u0)
            row1 = concept_map[v1, u0] * (1 - (u - u0)) + concept_map[v1, u1] * (u - u0)
            out[y, x] = row0 * (1 - (v - v0)) + row1 * (v - v0)
    return out


def test_two_cells_over_four_pixels():
    placed = place_map(np.array([[0.0, 1.0]], np.float32), source_size=(4, 2), crop_box=(0, 0, 4, 2))
    # Cell centres lie at x = 1 and x = 3; pixel centres at 0.5, 1.5, 2.5, 3.5.
    assert placed.dtype == np.float32
    assert placed == pytest.approx(np.array([[0, 0.25, 0.75, 1]] * 2))


def test_rows_and_columns_are_not_swapped():
    cells = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    placed = place_map(cells, source_size=(30, 10), crop_box=(0, 0, 30, 10))
    assert placed.shape == (10, 30)
    assert [placed[0, 0], placed[0, -1], placed[-1, 0], placed[-1, -1]] == [1, 3, 4, 6]


def test_what_lies_outside_the_crop_is_not_seen():
    placed = place_map(np.ones((2, 2), np.float32), source_size=(10, 6), crop_box=(2.5, 0, 7.5, 6))
    assert np.isnan(placed[:, :2]).all()
    assert np.isnan(placed[:, 8:]).all()
    assert (placed[:, 2:8] == 1).all()


@given(
    h=st.integers(1, 6),
    w=st.integers(1, 6),
    width=st.integers(1, 30),
    height=st.integers(1, 30),
    fractions=st.tuples(*[st.floats(0, 0.4)] * 4),
    seed=st.integers(0, 999),
)
@settings(max_examples=80, deadline=None)
def test_placement_is_its_definition(h, w, width, height, fractions, seed):
    cells = np.random.default_rng(seed).normal(size=(h, w)).astype(np.float32)
    left, top, right, bottom = fractions
    box = (left * width, top * height, width - right * width, height - bottom * height)
    placed = place_map(cells, source_size=(width, height), crop_box=box)
    expected = placed_slowly(cells, (width, height), box)
    assert np.array_equal(np.isnan(placed), np.isnan(expected))
    np.testing.assert_allclose(placed, expected, atol=2e-3)
