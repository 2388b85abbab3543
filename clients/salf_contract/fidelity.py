"""The verdict on an export: what was measured against the original model, and what it had to reach.

Exporting judges by it before it publishes, and a server judges again by what was stored beside the model.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from salf_contract.errors import MetadataError
from salf_contract.metadata import ExplanationFidelity, Fidelity
from salf_contract.validation import first_problem

FIDELITY_FILE = "fidelity.json"
#: Outputs that no precision may change: sums, and which model answers.
_EXACT_IN_ANY_PRECISION = frozenset({"sum", "bias", "contract_id"})
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


@dataclass(frozen=True)
class JudgedFigure:
    """A figure, what it must reach in words (empty: it is only told), and how much of its allowance is used up."""

    name: str
    reached: float
    needed: str
    used: float


class FidelityVerdict(BaseModel):
    """What of `fidelity.json` is judged; it tells more, for people."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format_version: Literal[1] = 1
    fidelity: Fidelity
    bound: float = Field(description="largest error that outputs were held to (in fp32; else sums and names only)")
    thresholds: Thresholds | None = Field(default=None, description="of the gate; null: no pictures were given")


def judge_explanations(figures: ExplanationFidelity, thresholds: Thresholds) -> list[JudgedFigure]:
    """Hold each figure against its threshold; one that is no number uses up everything."""
    rows = []
    for name in _SHARES:
        reached, least = getattr(figures, name), getattr(thresholds, name)
        rows.append(JudgedFigure(name, reached, f">= {least:.4g}", _used(1 - reached, 1 - least)))
    error, most = figures.largest_contribution_error, thresholds.contribution_error
    needed = "" if most is None else f"<= {most:.4g}"
    used = _used(error, math.inf if most is None else most)
    rows.append(JudgedFigure("largest_contribution_error", error, needed, used))
    if figures.pointing is not None and figures.pointing_source is not None:
        needed = f">= {figures.pointing_source - thresholds.pointing_loss:.4f}"
        lost = figures.pointing_source - figures.pointing
        rows.append(JudgedFigure("pointing", figures.pointing, needed, _used(lost, thresholds.pointing_loss)))
    return rows


def errors_that_count(max_abs_error: Mapping[str, float], precision: str) -> dict[str, float]:
    """Of the outputs' largest errors those that must stay within the bound: a reduced precision may round the rest."""
    return {
        name: error
        for name, error in max_abs_error.items()
        if precision == "fp32" or name in _EXACT_IN_ANY_PRECISION or not math.isfinite(error)
    }


def fidelity_problems(verdict: FidelityVerdict) -> tuple[str, ...]:
    """One phrase for each thing that the verdict does not allow; empty for a faithful export."""
    fidelity, thresholds = verdict.fidelity, verdict.thresholds
    problems = [
        f"{name} differs by up to {error:.3g}, allowed are {verdict.bound:.3g}"
        for name, error in sorted(errors_that_count(fidelity.max_abs_error, fidelity.precision).items())
        if not error <= verdict.bound
    ]
    if fidelity.explanations is None:
        if fidelity.precision != "fp32":
            problems.append(f"explanations in {fidelity.precision} were never compared")
    elif thresholds is not None:
        problems += [
            f"{row.name} is {row.reached:.4f}, needed is {row.needed}"
            for row in judge_explanations(fidelity.explanations, thresholds)
            if row.used > 1
        ]
    return tuple(problems)


def parse_verdict(content: bytes) -> FidelityVerdict:
    """Read `fidelity.json`.

    Raises:
        MetadataError: it cannot be read.
    """
    try:
        return FidelityVerdict.model_validate_json(content)
    except ValidationError as error:
        raise MetadataError(f"{FIDELITY_FILE} cannot be read: {first_problem(error)}; export it again") from error


def _used(lost: float, allowed: float) -> float:
    if not math.isfinite(lost):
        return math.inf
    # Differences below rounding are none: a threshold of exactly 1 can be reached.
    if lost <= 1e-6:
        return 0.0
    return lost / allowed if allowed > 0 else math.inf
