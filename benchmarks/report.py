"""What a benchmark found: one JSON object for programs, one table for people."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.table import Table

_PACKAGES = ("salf", "numpy", "onnx", "onnxruntime", "openvino", "torch", "timm", "tritonclient", "grpcio")
#: CPU features that decide how fast a network runs.
_FEATURES = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16")


class CannotMeasureError(Exception):
    """An answer was wrong or empty, or something needed is missing; there is nothing to time."""


@dataclass(frozen=True)
class Result:
    """One benchmark's outcome.

    Attributes:
        name: of the benchmark.
        runs: how many rounds, and how they were interleaved.
        figures: name -> number; ratios unless the name carries a unit.
        spread: figure -> (smallest, largest) seen.
        notes: name -> number, beside the figures: what a reader needs to judge them.
    """

    name: str
    runs: Mapping[str, object]
    figures: Mapping[str, float]
    spread: Mapping[str, tuple[float, float]]
    notes: Mapping[str, float] = field(default_factory=dict)
    machine: Mapping[str, object] = field(default_factory=lambda: describe_machine())
    versions: Mapping[str, str] = field(default_factory=lambda: describe_versions())


def describe_machine() -> dict[str, object]:
    """Cores, CPU model, the features that matter, and memory."""
    text = _read("/proc/cpuinfo")
    fields = dict(line.split(":", 1) for line in text.split("\n\n", maxsplit=1)[0].splitlines() if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set(named.get("flags", "").split())
    memory_kib = next((int(line.split()[1]) for line in _read("/proc/meminfo").splitlines() if "MemTotal" in line), 0)
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": named.get("model name", platform.processor() or platform.machine()),
        "features": [name for name in _FEATURES if name in flags],
        "memory_gib": round(memory_kib / 2**20, 1),
    }


def describe_versions() -> dict[str, str]:
    """Versions of Python and of what is installed of the packages that are measured."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write_result(result: Result, path: Path) -> None:
    """Write one JSON object; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(result), indent=1) + "\n")


def print_result(result: Result) -> None:
    """Print figures and spread as a table, machine and method below it."""
    table = Table(title=result.name)
    table.add_column("figure")
    for heading in ("value", "smallest", "largest"):
        table.add_column(heading, justify="right")
    for name, value in result.figures.items():
        low, high = result.spread.get(name, (value, value))
        table.add_row(name, _number(value), _number(low), _number(high))
    if result.notes:
        table.add_section()
    for name, value in result.notes.items():
        table.add_row(name, _number(value), "", "", style="dim")
    console = Console()
    console.print(table)
    console.print(f"machine: {result.machine}", markup=False, highlight=False)
    console.print(f"runs: {dict(result.runs)}", markup=False, highlight=False)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
