"""What-if questions to verify a graph with, and how far its answers lie from the operations' in float64.

Axis letters: B batch, M concepts, K classes, h w concept map, E edit slots.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salf_contract import EDIT_SLOTS, NO_CONCEPT, sum_tolerance
from salf_export.comparison import Reference, difference, errors_by_row, worse
from salf_export.runtime import Arrays
from salf_training.model import Pooling
from salf_training.operations import Edit, edited_scores, region_scores


@dataclass(frozen=True)
class Statistics:
    """Of the scores over the training pictures: what the operations need besides maps.

    Attributes:
        mean: FP64 [M].
        std: FP64 [M].
        pooling: of the maps.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    pooling: Pooling


def random_question(batch: int, *, concepts: int, map_size: tuple[int, int], random: np.random.Generator) -> Arrays:
    """Regions with gaps, and edits that leave slots empty and edit a concept twice: all inputs but picture and target.

    Args:
        batch: B. The last picture of several has no region and no edit.
        concepts: M.
        map_size: (h, w).
        random: where numbers come from.
    """
    edited = random.integers(0, concepts, (batch, EDIT_SLOTS), np.int32)
    edited[:, 1] = edited[:, 0]
    edited[:, 2] = NO_CONCEPT
    region = random.random((batch, *map_size), np.float32) * (random.random((batch, *map_size)) < 0.6)
    if batch > 1:
        region[-1], edited[-1] = 0, NO_CONCEPT
    return {
        "region": region.astype(np.float32),
        "edit_concepts": edited,
        "edit_strengths": random.normal(0, 2, (batch, EDIT_SLOTS)).astype(np.float32),
        "edit_masks": random.random((batch, EDIT_SLOTS, *map_size), np.float32),
    }


def what_if_errors(
    answer: Arrays, question: Mapping[str, NDArray[Any]], reference: Reference, statistics: Statistics
) -> dict[str, float]:
    """How far a what-if answer lies from the operations on the model's own maps.

    Args:
        answer: output name -> array, batch axis first.
        question: the inputs, `target` INT32 [B,1] among them.
        reference: the unfolded model's answer to the same pictures.
        statistics: of the model.

    Returns:
        Output name -> largest absolute error; "sum" is by how much contributions and bias miss the logit, before or
        after the edits, beyond the contract's tolerance.
    """

    def row_errors(row: int, explained: int) -> dict[str, float]:
        return _row_errors(answer, question, explained, row, reference, statistics)

    return errors_by_row(answer, question["target"], reference, row_errors)


def _row_errors(
    answer: Arrays,
    question: Mapping[str, NDArray[Any]],
    explained: int,
    row: int,
    reference: Reference,
    statistics: Statistics,
) -> dict[str, float]:
    weights, bias = reference.head_weight, reference.head_bias
    maps, mean, std = reference.maps[row : row + 1], statistics.mean, statistics.std
    region = question["region"][row].astype(np.float64)
    here = np.zeros_like(reference.scores[row])
    if region.any():
        here = region_scores(maps, region, mean=mean, std=std, pooling=statistics.pooling)[0]
    edits = [
        Edit(int(concept), float(strength) * std[concept], mask.astype(np.float64))
        for concept, strength, mask in zip(
            *(question[name][row] for name in ("edit_concepts", "edit_strengths", "edit_masks")), strict=True
        )
        if concept != NO_CONCEPT
    ]
    edited = edited_scores(maps, edits, mean=mean, std=std, pooling=statistics.pooling)[0]
    wanted = {
        "region_scores": here,
        "contributions": weights[explained] * reference.scores[row],
        "edited_contributions": weights[explained] * edited,
        "edited_logits": weights @ edited + bias,
        "bias": bias[explained : explained + 1],
    }
    errors = {name: difference(answer[name][row], values) for name, values in wanted.items()}
    errors["sum"] = 0.0
    for parts, total in (("contributions", "logits"), ("edited_contributions", "edited_logits")):
        values = answer[parts][row].astype(np.float64)
        miss = abs(values.sum() + float(answer["bias"][row, 0]) - float(answer[total][row, explained]))
        errors["sum"] = worse(errors["sum"], miss - sum_tolerance(values))
    return errors
