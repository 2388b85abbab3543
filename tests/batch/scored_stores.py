"""Small pictures, manifests of many, how to score them by command, and how to read what was scored."""

import io
import os
import sys
from pathlib import Path

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


def environment():
    """Of a command that shall leave cores to others."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def command_of(source, target, url, *, shard_size):
    """`salf score` as a process, which prints its summary as JSON."""
    salf = Path(sys.executable).parent / "salf"
    command = [salf, "score", source, "--out", target, "--url", url, "--shard-size", shard_size, "--json"]
    return [str(word) for word in command]


def manifest_of(folder, count):
    """A manifest of many inputs that repeats a few pictures, one of them broken and one missing."""
    pictures = [*sorted(folder.rglob("*.jpg")), folder / "missing.jpg"]
    path = folder / f"{count}.txt"
    path.write_text("".join(f"{pictures[number % len(pictures)]}\n" for number in range(count)))
    return path
