"""Small pictures, and how to read what was scored."""

import io

import numpy as np
import pyarrow.dataset
import pytest
from PIL import Image


def jpeg(seed, size=(64, 48)):
    """Bytes of a small picture of soft noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(buffer, "JPEG")
    return buffer.getvalue()


def rows_of(target):
    """Rows of a scored store, in their order."""
    table = pyarrow.dataset.dataset(str(target), format="parquet").to_table()
    return sorted(table.to_pylist(), key=lambda row: row["index"])


def assert_same_rows(some, others):
    """Equal rows; numbers to within what another batch's rounding makes of them."""
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if isinstance(value, float) or (isinstance(value, list) and value and isinstance(value[0], float)):
                assert other[name] == pytest.approx(value, abs=1e-3), (one["uri"], name)
            else:
                assert other[name] == value, (one["uri"], name)
