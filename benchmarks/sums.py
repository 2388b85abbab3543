"""Contributions that do not sum to their logit explain nothing, however fast they are."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import CannotMeasureError
from salf_contract import sum_tolerance


def check_sums(answer: Mapping[str, NDArray[Any]], *, who: str) -> None:
    """Hold a batch of explain answers against the contract's tolerance.

    Args:
        answer: output name -> array, batch axis first.
        who: answered, for the message.

    Raises:
        CannotMeasureError: contributions, rest and bias miss a logit.
    """
    for row, target in enumerate(answer["target_class"][:, 0]):
        shown = answer["top_contributions"][row].astype(np.float64)
        total = float(shown.sum() + answer["rest_contribution"][row, 0] + answer["bias"][row, 0])
        gap = abs(total - float(answer["logits"][row, target]))
        everything = np.abs(shown).sum() / answer["coverage"][row, 0]
        if not gap <= sum_tolerance(np.array([everything])):
            raise CannotMeasureError(f"contributions of {who} miss the logit by {gap:g}")
