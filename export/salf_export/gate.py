"""The gate: how much of the explanation a faster kind must keep to be published."""

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


def check_gate(figures: ExplanationFidelity, thresholds: Thresholds) -> None:
    """Raises FidelityError, with a table of all figures, if one misses its threshold."""
    if figures.pictures < thresholds.least_pictures:
        raise OptionError(
            f"--held-out holds {figures.pictures} pictures; shares like {thresholds.class_agreement:.0%} need at least "
            f"{thresholds.least_pictures} (least_pictures in --thresholds)"
        )
    if pressure(figures, thresholds) > 1:
        raise FidelityError(
            "explanations differ too much from the PyTorch model's; nothing was published.\n"
            + gate_table(figures, thresholds)
            + "\nGive more --calibration pictures, or choose another precision; thresholds are set by --thresholds."
        )


def pressure(figures: ExplanationFidelity, thresholds: Thresholds) -> float:
    """How much of the most strained allowance is used up: 0 for no difference, above 1 for a figure that misses."""
    return max(_used(value, bound) for _, value, bound in _losses(figures, thresholds))


def gate_table(figures: ExplanationFidelity, thresholds: Thresholds) -> str:
    """All figures with their thresholds, for people."""
    rows = [f"  {'on ' + str(figures.pictures) + ' held-out pictures':<28} {'reached':>9} {'needed':>10}"]
    for name in _SHARES:
        least = getattr(thresholds, name)
        value = getattr(figures, name)
        rows.append(f"  {name:<28} {value:>9.4f} {'>= ' + format(least, '.4g'):>10}  {_word(value >= least)}")
    error, most = figures.largest_contribution_error, thresholds.contribution_error
    judged = "" if most is None else f"{'<= ' + format(most, '.4g'):>10}  {_word(error <= most)}"
    rows.append(f"  {'largest_contribution_error':<28} {error:>9.4f} {judged}".rstrip())
    if figures.pointing is not None and figures.pointing_source is not None:
        least = figures.pointing_source - thresholds.pointing_loss
        judged = f"{'>= ' + format(least, '.4f'):>10}  {_word(figures.pointing >= least)}"
        rows.append(f"  {'pointing':<28} {figures.pointing:>9.4f} {judged}")
    return "\n".join(rows)


def _losses(figures: ExplanationFidelity, thresholds: Thresholds) -> list[tuple[str, float, float]]:
    """(name, what was lost, what may be lost)."""
    losses = [(name, 1 - getattr(figures, name), 1 - getattr(thresholds, name)) for name in _SHARES]
    if thresholds.contribution_error is not None:
        losses.append(("contribution_error", figures.largest_contribution_error, thresholds.contribution_error))
    if figures.pointing is not None and figures.pointing_source is not None:
        losses.append(("pointing", figures.pointing_source - figures.pointing, thresholds.pointing_loss))
    return losses


def _used(lost: float, allowed: float) -> float:
    # Differences below rounding are none: a threshold of exactly 1 can be reached.
    if lost <= 1e-6:
        return 0.0
    return lost / allowed if allowed > 0 else float("inf")


def _word(reached: bool) -> str:
    return "ok" if reached else "TOO LOW"
