"""The gate: how much of the explanation a faster kind must keep to be published."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from salf_contract import ExplanationFidelity, Thresholds, first_problem, judge_explanations
from salf_export.errors import FidelityError, OptionError


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
        known = ", ".join(Thresholds.model_fields)
        raise OptionError(
            f"the thresholds {path} cannot be used: {first_problem(error, whole='file')}; keys are {known}"
        ) from error


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
    return max(row.used for row in judge_explanations(figures, thresholds))


def gate_table(figures: ExplanationFidelity, thresholds: Thresholds) -> str:
    """All figures with their thresholds, for people."""
    lines = [f"  {'on ' + str(figures.pictures) + ' held-out pictures':<28} {'reached':>9} {'needed':>10}"]
    for row in judge_explanations(figures, thresholds):
        word = "TOO LOW" if row.used > 1 else "ok" if row.needed else ""
        lines.append(f"  {row.name:<28} {row.reached:>9.4f} {row.needed:>10}  {word}".rstrip())
    return "\n".join(lines)
