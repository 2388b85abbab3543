"""The gate: how much of the explanation a faster kind must keep to be published."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from salf_contract import ExplanationFidelity
from salf_export.errors import FidelityError, OptionError

#: Figures that must reach a threshold, in the order of the table.
_SHARES = ("class_agreement", "top5_overlap", "top5_order", "map_cosine")


class Thresholds(BaseModel):
    """What an export must reach on held-out pictures; a YAML file with these keys can be given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    class_agreement: float = Field(default=0.99, ge=0, le=1, description="least share of the same predicted class")
    top5_overlap: float = Field(default=0.9, ge=0, le=1, description="least overlap of the five strongest concepts")
    # A class of at most five concepts always shows the same five: only their order can tell.
    top5_order: float = Field(default=0.9, ge=0, le=1, description="least overlap, averaged over the depths 1 to 5")
    map_cosine: float = Field(default=0.98, ge=0, le=1, description="least mean cosine of these concepts' maps")
    contribution_error: float | None = Field(
        default=None, gt=0, description="largest error of a contribution, in logits; null: not judged"
    )
    pointing_loss: float = Field(
        default=0.02, ge=0, le=1, description="most that the share of maps on their concept may fall, where masks exist"
    )
    least_pictures: int = Field(default=100, ge=1, description="held-out pictures below which nothing is concluded")


def read_thresholds(path: Path) -> Thresholds:
    """Read thresholds from YAML; keys that are left out keep their defaults.

    Raises:
        OptionError: no file, no YAML, or a key that is unknown or out of range.
    """
    try:
        values: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"the thresholds {path} cannot be read: {' '.join(str(error).split())}") from error
    try:
        return Thresholds.model_validate({} if values is None else values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        known = ", ".join(Thresholds.model_fields)
        raise OptionError(f"the thresholds {path} cannot be used: {where}: {first['msg']}; keys are {known}") from error


def check_enough(pictures: int, thresholds: Thresholds) -> None:
    """Raises OptionError for fewer held-out pictures than shares can be told from."""
    if pictures < thresholds.least_pictures:
        raise OptionError(
            f"--held-out holds {pictures} pictures; shares like {thresholds.class_agreement:.0%} need at least "
            f"{thresholds.least_pictures} (least_pictures in --thresholds)"
        )


def check_gate(figures: ExplanationFidelity, thresholds: Thresholds) -> None:
    """Raises FidelityError, with a table of all figures, if one misses its threshold."""
    if pressure(figures, thresholds) > 1:
        raise FidelityError(
            "explanations differ too much from the PyTorch model's; nothing was published.\n"
            + gate_table(figures, thresholds)
            + "\nGive more --calibration pictures, or choose another precision; thresholds are set by --thresholds."
        )


def pressure(figures: ExplanationFidelity, thresholds: Thresholds) -> float:
    """How much of the most strained allowance is used up: 0 for no difference, above 1 for a figure that misses.

    A figure that is no number uses up everything: a broken runtime must not slip through a comparison.
    """
    return max(row.used for row in _judge(figures, thresholds))


def gate_table(figures: ExplanationFidelity, thresholds: Thresholds) -> str:
    """All figures with their thresholds, for people."""
    lines = [f"  {'on ' + str(figures.pictures) + ' held-out pictures':<28} {'reached':>9} {'needed':>10}"]
    for row in _judge(figures, thresholds):
        word = "TOO LOW" if row.used > 1 else "ok" if row.needed else ""
        lines.append(f"  {row.name:<28} {row.reached:>9.4f} {row.needed:>10}  {word}".rstrip())
    return "\n".join(lines)


@dataclass(frozen=True)
class _Row:
    """A figure, what it must reach in words (empty: it is only told), and how much of its allowance is used up."""

    name: str
    reached: float
    needed: str
    used: float


def _judge(figures: ExplanationFidelity, thresholds: Thresholds) -> list[_Row]:
    rows = []
    for name in _SHARES:
        reached, least = getattr(figures, name), getattr(thresholds, name)
        rows.append(_Row(name, reached, f">= {least:.4g}", _used(1 - reached, 1 - least)))
    error, most = figures.largest_contribution_error, thresholds.contribution_error
    needed = "" if most is None else f"<= {most:.4g}"
    rows.append(_Row("largest_contribution_error", error, needed, _used(error, math.inf if most is None else most)))
    if figures.pointing is not None and figures.pointing_source is not None:
        needed = f">= {figures.pointing_source - thresholds.pointing_loss:.4f}"
        lost = figures.pointing_source - figures.pointing
        rows.append(_Row("pointing", figures.pointing, needed, _used(lost, thresholds.pointing_loss)))
    return rows


def _used(lost: float, allowed: float) -> float:
    if not math.isfinite(lost):
        return math.inf
    # Differences below rounding are none: a threshold of exactly 1 can be reached.
    if lost <= 1e-6:
        return 0.0
    return lost / allowed if allowed > 0 else math.inf
