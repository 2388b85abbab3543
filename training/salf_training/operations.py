"""What one can ask of a SALF-CBM's maps: pure functions on float arrays, for average and softmax pooling.

Axis letters: B pictures (or frames of a video: frames are independent, so a video is a batch), M concepts, K classes,
h w cells of a map. maps are raw concept maps c(x) [B,M,h,w]; mean and std [M] are the training statistics of the pooled
maps; weight [K,M] and bias [K] are the head. Results have the dtype of the maps.

What holds under which pooling (design, section 3):

| | average | softmax |
|---|---|---|
| contributions + bias = logit | exactly | exactly |
| spatial mean of `class_maps` + bias = logit | exactly | no: a picture of where, not a sum |
| `region_scores` | z of the region: a region that is the whole picture gives z | mean of raw maps, no z |
| `edited_scores` | z + beta * mean(mask) / std | the edited maps pooled again |

Source: Benou & Riklin-Raviv, "Show and Tell", CVPR 2025 (arXiv 2502.20134), sections 3.3 to 3.5.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.floating[Any]]
Pooling: TypeAlias = Literal["average", "softmax"]


@dataclass(frozen=True)
class RankedConcept:
    """One concept of an answer: its index and the number that ranks it."""

    concept: int
    value: float


def pool(maps: Array, *, pooling: Pooling) -> Array:
    """Bring each map to one number: [...,h,w] -> [...], in the maps' unit.

    Softmax pooling averages a map with its own spatial softmax as weights.
    """
    flat = maps.reshape(*maps.shape[:-2], -1)
    if pooling == "average":
        return np.asarray(flat.mean(axis=-1))
    share = np.exp(flat - flat.max(axis=-1, keepdims=True))
    return np.asarray((share * flat).sum(axis=-1) / share.sum(axis=-1))


def concept_scores(maps: Array, *, mean: Array, std: Array, pooling: Pooling) -> Array:
    """Z = (pooled - mean) / std: maps [B,M,h,w] -> [B,M], in training standard deviations."""
    return np.asarray((pool(maps, pooling=pooling) - mean) / std)


def head_logits(scores: Array, *, weight: Array, bias: Array) -> Array:
    """W z + b: scores [B,M] -> [B,K]."""
    return np.asarray(scores @ weight.T + bias)


def contributions(scores: Array, *, weight: Array, target: int) -> Array:
    """What each concept adds to a class's logit: scores [B,M] -> [B,M].

    They and the class's bias sum to the logit. A positive one may come from an absent concept (z < 0) that the class
    holds against (weight < 0).
    """
    return np.asarray(weight[target] * scores)


def top_concepts(values: Array, count: int) -> tuple[RankedConcept, ...]:
    """The concepts of largest absolute value, largest first; values [M]. Zeros are left out, ties keep their order."""
    order = np.argsort(-np.abs(values), kind="stable")[:count]
    return tuple(RankedConcept(int(index), float(values[index])) for index in order if values[index] != 0)


def class_maps(maps: Array, *, weight: Array, mean: Array, std: Array, target: int) -> Array:
    """Where a class's evidence lies: sum_m W[k,m] (c_m - mean_m) / std_m, [B,M,h,w] -> [B,h,w].

    Under average pooling its spatial mean plus the bias is the logit, exactly: a cell's value is what the cell says.
    Under softmax pooling it is no such sum.
    """
    factor = weight[target] / std
    return np.asarray(np.einsum("m,bmhw->bhw", factor, maps) - factor @ mean)


def contribution_weighted_maps(maps: Array, scores: Array, *, weight: Array, target: int) -> Array:
    """The paper's class map: raw maps weighted by their contributions, [B,M,h,w] and scores [B,M] -> [B,h,w].

    Not linear in the maps and without the logit's unit; used to compare with the paper's figures.
    """
    return np.asarray(np.einsum("bm,bmhw->bhw", contributions(scores, weight=weight, target=target), maps))


def evidence_maps(maps: Array, *, weight: Array, mean: Array, std: Array, target: int) -> Array:
    """What speaks for a class, and where: max(0, sum_m W[k,m] ((c_m - mean_m) / std_m)^3), [B,M,h,w] -> [B,h,w].

    Concept maps were fitted to the encoder's similarities under the cubed cosine, so cubes are what they were made to
    agree in: the few cells that show a concept stand out from the many that are a little above its mean. Not the
    logit's unit; for segmentation and for pictures, where Grad-CAM cuts off negative evidence as well.
    """
    cubes = ((maps - mean[:, None, None]) / std[:, None, None]) ** 3
    return np.asarray(np.einsum("m,bmhw->bhw", weight[target], cubes).clip(0))


def point_mask(row: int, column: int, *, rows: int, columns: int) -> Array:
    """A region of one cell: FP64 [h,w].

    Raises:
        ValueError: the cell is outside the map.
    """
    return box_mask(row, column, row + 1, column + 1, rows=rows, columns=columns)


def box_mask(top: float, left: float, bottom: float, right: float, *, rows: int, columns: int) -> Array:
    """A box in cells, fractions allowed: FP64 [h,w], the share of each cell that the box covers.

    Raises:
        ValueError: the box is empty or reaches outside the map.
    """
    if not (0 <= top < bottom <= rows and 0 <= left < right <= columns):
        raise ValueError(
            f"the box (top {top}, left {left}, bottom {bottom}, right {right}) must hold something and lie inside the "
            f"map of {rows} x {columns} cells; divide pixels by the size of a cell first"
        )
    down = np.clip(np.minimum(np.arange(1, rows + 1), bottom) - np.maximum(np.arange(rows), top), 0, 1)
    across = np.clip(np.minimum(np.arange(1, columns + 1), right) - np.maximum(np.arange(columns), left), 0, 1)
    return np.asarray(np.outer(down, across))


def region_scores(maps: Array, region: Array, *, mean: Array, std: Array, pooling: Pooling) -> Array:
    """How strongly each concept shows inside a region: maps [B,M,h,w], region [h,w] of weights >= 0 -> [B,M].

    Average pooling: (mean over the region - mean) / std, the z of a picture that looked like the region throughout.
    Softmax pooling: the mean of the raw maps over the region, in their own unit: training statistics are of other
    quantities there, so it is no z.

    Raises:
        ValueError: another shape, negative weights, or an empty region.
    """
    if region.shape != maps.shape[-2:] or not np.isfinite(region).all() or (region < 0).any() or not region.any():
        raise ValueError(
            f"the region must be an array {list(maps.shape[-2:])} of weights, none negative and not all zero; "
            f"this one is {list(region.shape)}, from {region.min(initial=0):g} to {region.max(initial=0):g}"
        )
    inside = np.einsum("bmhw,hw->bm", maps, region / region.sum())
    return np.asarray((inside - mean) / std) if pooling == "average" else np.asarray(inside)


def region_concepts(
    maps: Array, region: Array, *, mean: Array, std: Array, pooling: Pooling, count: int
) -> tuple[tuple[RankedConcept, ...], ...]:
    """The concepts that show most inside a region ("what is here?"), most first, for each of the B pictures.

    Values are those of `region_scores`; only what is present ranks high, so they are ordered by value, not size.
    """
    scores = region_scores(maps, region, mean=mean, std=std, pooling=pooling)
    orders = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return tuple(
        tuple(RankedConcept(int(index), float(row[index])) for index in order)
        for row, order in zip(scores, orders, strict=True)
    )


@dataclass(frozen=True)
class Edit:
    """Add `beta` times a mask to a concept's map, once.

    Attributes:
        concept: index.
        beta: in the map's unit; negative takes the concept away.
        mask: [h,w]; where, and how much of beta.
    """

    concept: int
    beta: float
    mask: Array


def edited_maps(maps: Array, edits: Sequence[Edit]) -> Array:
    """C' = c + beta * mask for every edit: a new array [B,M,h,w]; several edits of one concept add up.

    Raises:
        ValueError: a mask that does not have the maps' size, or a concept that does not exist.
    """
    changed = maps.copy()
    for edit in edits:
        if edit.mask.shape != maps.shape[-2:] or not 0 <= edit.concept < maps.shape[1]:
            raise ValueError(
                f"an edit needs a concept from 0 to {maps.shape[1] - 1} and a mask {list(maps.shape[-2:])}; "
                f"this one has concept {edit.concept} and a mask {list(edit.mask.shape)}"
            )
        changed[:, edit.concept] += edit.beta * edit.mask
    return changed


def edited_scores(maps: Array, edits: Sequence[Edit], *, mean: Array, std: Array, pooling: Pooling) -> Array:
    """Z after the edits, [B,M]: the maps pooled again. Concepts that are not edited keep theirs.

    Under average pooling the same as `shifted_scores`, which needs no maps.
    """
    return concept_scores(edited_maps(maps, edits), mean=mean, std=std, pooling=pooling)


def shifted_scores(scores: Array, edits: Sequence[Edit], *, std: Array) -> Array:
    """Z after the edits under average pooling, from z alone: z + beta * mean(mask) / std; scores [B,M] -> [B,M]."""
    changed = scores.copy()
    for edit in edits:
        changed[:, edit.concept] += edit.beta * edit.mask.mean() / std[edit.concept]
    return changed


@dataclass(frozen=True)
class DecisionRule:
    """What a class looks for anywhere: its bias and its concepts, largest weight first."""

    target: int
    bias: float
    concepts: tuple[RankedConcept, ...]


def decision_rules(weight: Array, bias: Array, *, count: int | None = None) -> tuple[DecisionRule, ...]:
    """The head as K rules: a class's logit is its bias plus weight * z over these concepts.

    A weight is the logit per training standard deviation of its concept; a negative one holds against the class.

    Args:
        weight: [K,M].
        bias: [K].
        count: most concepts of a rule; None: all with a weight, and then the rule is the whole truth.
    """
    most = weight.shape[1] if count is None else count
    return tuple(
        DecisionRule(target, float(bias[target]), top_concepts(weight[target], most)) for target in range(len(weight))
    )
