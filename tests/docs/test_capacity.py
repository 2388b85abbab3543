"""The example on the capacity page follows from the figures measured on the same page."""

import math
import re

import pytest

from demonstration.paths import ROOT
from salf_contract import PictureLimits

PAGE = (ROOT / "docs" / "capacity.md").read_text()
R, K, DEADLINE_S, WINDOW_S = 200, 4, 1, 86_400


def row(beginning: str) -> list[str]:
    """Cells of the first table row that begins so."""
    return next(line for line in PAGE.splitlines() if line.startswith(f"| {beginning}")).strip("| ").split(" | ")


def measured(name: str, place: int = 0) -> float:
    """A value of the table of measurements; of a row for several names, the one at that place."""
    return float(row(f"`{name}")[1].split(", ")[place])


def example(beginning: str) -> float:
    """What the example comes to: the first number behind the last equals sign, or the first of all."""
    found = re.search(r"[\d,.]*\d", row(beginning)[-1].rpartition("= ")[2])
    assert found is not None
    return float(found[0].replace(",", ""))


LOADED_MB = measured("memory_idle_mb`, `memory_loaded_mb", 1)
VGA_S, PIXELS_S = measured("vga_cpu_ms") / 1000, measured("pixels_cpu_ms") / 1000
REQUEST_MB = float(re.findall(r"(\d+) KB", row("`vga_cpu_ms")[0])[0]) / 1000
PICTURE_MB = 24 * PictureLimits().max_pixels / 1e6  # while it is decoded
DECODERS = math.ceil(K * (VGA_S - PIXELS_S) / VGA_S) + 1
ADMITTED = 256
REPOSITORY_MB = sum(path.stat().st_size for path in (ROOT / "model_repository").rglob("*") if path.is_file()) / 1e6


@pytest.mark.parametrize(
    ("beginning", "expected"),
    [
        ("best rate", K / VGA_S),
        ("planned rate", 0.6 * K / VGA_S),
        ("servers", math.ceil(R / (0.6 * K / VGA_S)) + 1),
        ("`concurrent_requests`", DEADLINE_S / 3 * K / VGA_S),
        ("decoders", DECODERS),
        (
            "memory of a server",
            LOADED_MB + measured("memory_trial_mb") + DECODERS * PICTURE_MB,
        ),
        ("`/dev/shm`", measured("shared_memory_mb") + ADMITTED * REQUEST_MB),
        ("disk", 2 * REPOSITORY_MB + 150),
        ("access log", R * measured("log_bytes_per_request") * WINDOW_S / 1e9),
        ("network", R * REQUEST_MB),
        ("series in Prometheus", 3 * 1000 + 200),
    ],
)
def test_the_example_follows_from_what_was_measured(beginning, expected):
    assert example(beginning) == pytest.approx(expected, rel=0.02)
