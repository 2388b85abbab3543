"""How far an answer of a graph lies from the unfolded model's, output by output."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from salf_contract import NO_CONCEPT, PREDICTED_CLASS, sum_tolerance
from salf_export.runtime import Arrays

#: Below this sum of |contributions| the coverage says nothing: it is a quotient of rounding errors.
_NOTHING = 1e-4


@dataclass(frozen=True)
class Reference:
    """The unfolded model's answer to a batch, float64.

    Attributes:
        maps: [B,M,h,w] raw c(x).
        scores: [B,M] z.
        logits: [B,K].
        normalised_maps: [B,M,h,w] (c - mean) / std.
        head_weight: [K,M].
        head_bias: [K].
    """

    maps: NDArray[np.float64]
    scores: NDArray[np.float64]
    logits: NDArray[np.float64]
    normalised_maps: NDArray[np.float64]
    head_weight: NDArray[np.float64]
    head_bias: NDArray[np.float64]


def explain_errors(answer: Arrays, wanted: NDArray[np.int32], reference: Reference) -> dict[str, float]:
    """How far an explain answer lies from the reference, output by output.

    Top concepts are compared as a set, aligned by index: which of two equally strong ones is shown does not matter,
    but showing a weaker one in place of a stronger one counts as an error of that size.

    Args:
        answer: output name -> array, batch axis first.
        wanted: INT32 [B,1], the classes asked for; PREDICTED_CLASS asks for the best.
        reference: of the same batch.

    Returns:
        Output name -> largest absolute error; "sum" is the excess of |contributions + rest + bias - logit| over the
        contract's tolerance.
    """

    def row_errors(row: int, explained: int) -> dict[str, float]:
        return _row_errors({name: values[row] for name, values in answer.items()}, explained, row, reference)

    return errors_by_row(answer, wanted, reference, row_errors)


def errors_by_row(
    answer: Arrays,
    wanted: NDArray[np.int32],
    reference: Reference,
    row_errors: Callable[[int, int], dict[str, float]],
) -> dict[str, float]:
    """The errors of logits and classes, and the largest of what else is found picture by picture.

    Args:
        answer: output name -> array, batch axis first; with `logits` and `target_class`.
        wanted: INT32 [B,1], the classes asked for; PREDICTED_CLASS asks for the best.
        reference: of the same batch.
        row_errors: (row, class explained there) -> output name -> error. Not asked once an answer is about a class that
            was not asked for.
    """
    errors = {"logits": difference(answer["logits"], reference.logits)}
    for row, asked in enumerate(wanted[:, 0].tolist()):
        explained = int(answer["target_class"][row, 0])
        if not 0 <= explained < reference.logits.shape[1] or asked not in (PREDICTED_CLASS, explained):
            return errors | {"target_class": np.inf}
        gap = float(reference.logits[row].max() - reference.logits[row, explained])
        found = row_errors(row, explained) | {"target_class": gap if asked == PREDICTED_CLASS else 0.0}
        errors = {name: worse(errors.get(name, 0.0), found.get(name, 0.0)) for name in errors | found}
    return errors


def difference(got: NDArray[np.generic], expected: NDArray[np.generic] | np.floating | float) -> float:
    """Largest absolute difference; infinite for another shape or anything that is not finite."""
    wide = np.asarray(expected, np.float64)
    if wide.ndim and got.shape != wide.shape:
        return np.inf
    error = np.abs(np.asarray(got, np.float64) - wide).max(initial=0.0)
    return float(error) if np.isfinite(error) else np.inf


def worse(one: float, other: float) -> float:
    """The larger; a NaN on either side is infinitely bad."""
    return max(one, other) if np.isfinite(one) and np.isfinite(other) else np.inf


def _row_errors(answer: Arrays, explained: int, row: int, reference: Reference) -> dict[str, float]:
    weights = reference.head_weight[explained]
    contributions = weights * reference.scores[row]
    concepts = answer["top_concepts"].astype(np.int64)
    shown = concepts[concepts != NO_CONCEPT]
    expected = min(len(concepts), int(np.count_nonzero(weights)))
    is_sound = (
        len(shown) == expected == len(set(shown.tolist()))
        and (concepts[:expected] == shown).all()
        and ((shown >= 0) & (shown < len(weights))).all()
    )
    if not is_sound:
        return {"top_concepts": np.inf}
    sizes = np.abs(contributions)
    others = np.delete(sizes, shown)
    missed = max(0.0, others.max(initial=0.0) - sizes[shown].min(initial=np.inf))
    disorder = np.diff(np.abs(answer["top_contributions"])).max(initial=0.0)

    def padded(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([values[shown], np.zeros((len(concepts) - expected, *values.shape[1:]))])

    rest = np.delete(contributions, shown).sum()
    total = sizes.sum()
    coverage = sizes[shown].sum() / total if total > 0 else 1.0
    answered = answer["top_contributions"].astype(np.float64).sum() + float(answer["rest_contribution"][0])
    gap = abs(answered + float(answer["bias"][0]) - float(answer["logits"][explained]))
    return {
        "top_concepts": max(missed, float(disorder)),
        "top_contributions": difference(answer["top_contributions"], padded(contributions)),
        "top_scores": difference(answer["top_scores"], padded(reference.scores[row])),
        "top_maps": difference(answer["top_maps"], padded(reference.normalised_maps[row])),
        "rest_contribution": difference(answer["rest_contribution"], rest),
        "coverage": difference(answer["coverage"], coverage) if total > _NOTHING else 0.0,
        "bias": difference(answer["bias"], reference.head_bias[explained]),
        "sum": worse(0.0, gap - sum_tolerance(contributions)),
    }
