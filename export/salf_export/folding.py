"""Fold bottleneck, normalisation and head into few constants, in float64.

With average pooling everything after the backbone is linear. For mean features g [C] (of the resized features, where
the model resizes them):

    z      = A g + a                A = W_c / std [M,C],   a = (b_c - mean) / std [M]
    logits = (W_g A) g + W_g a + b  (W_g A) [K,C]

so neither all M scores nor any [M,h,w] is needed for a prediction.

With softmax pooling only the shift can be folded: pool(c - mean) = pool(c) - mean, but pool(c / std) is something else
than pool(c) / std.

    z      = pool(W_c f + (b_c - mean)) / std

Axis letters: C features, M concepts, K classes, S slots of the sparse head's table.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from salf_contract import NO_CONCEPT
from salf_export.errors import SourceError
from salf_training.model import Pooling, SalfModel

_Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class LinearHead:
    """Everything after the backbone, as trained, in float64.

    Attributes:
        concept_weight: [M,C] the 1x1 convolution W_c.
        concept_bias: [M] b_c.
        score_mean: [M] of pooled maps over the training pictures.
        score_std: [M], positive.
        head_weight: [K,M] W_g, sparse or dense.
        head_bias: [K] b.
        pooling: of the maps.
        map_size: (h, w) that features are resized to; None: they are not.
    """

    concept_weight: _Float64
    concept_bias: _Float64
    score_mean: _Float64
    score_std: _Float64
    head_weight: _Float64
    head_bias: _Float64
    pooling: Pooling = "average"
    map_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            if isinstance(values, np.ndarray) and not np.isfinite(values).all():
                raise SourceError(
                    f"{name} of the checkpoint holds {np.count_nonzero(~np.isfinite(values))} values that are not "
                    "finite; train it again"
                )
        if (self.score_std <= 0).any():
            concept = int(np.argmax(self.score_std <= 0))
            raise SourceError(
                f"score_std of concept {concept} is {self.score_std[concept]:g}, expected a positive number: "
                "a concept that never varies must be dropped in training"
            )


@dataclass(frozen=True)
class FoldedHead:
    """The constants of graphs with average pooling.

    Attributes:
        score_weight: FP32 [M,C] A.
        score_offset: FP32 [M] a.
        logit_weight: FP32 [K,C] W_g A.
        logit_offset: FP32 [K] W_g a + b.
        head_weight: FP32 [K,M] W_g.
        head_bias: FP32 [K] b.
        map_weight: FP32 [M,C] W_c.
        map_offset: FP32 [M] b_c.
        map_size: (h, w) that features are resized to; None: they are not.
    """

    score_weight: NDArray[np.float32]
    score_offset: NDArray[np.float32]
    logit_weight: NDArray[np.float32]
    logit_offset: NDArray[np.float32]
    head_weight: NDArray[np.float32]
    head_bias: NDArray[np.float32]
    map_weight: NDArray[np.float32]
    map_offset: NDArray[np.float32]
    map_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class SoftmaxHead:
    """The constants of graphs with softmax pooling.

    Attributes:
        centred_offset: FP32 [M] b_c - mean: maps with it are pooled to z * std.
        score_scale: FP32 [M] 1 / std.
        head_weight: FP32 [K,M] W_g.
        head_bias: FP32 [K] b.
        map_weight: FP32 [M,C] W_c.
        map_offset: FP32 [M] b_c.
        map_size: (h, w) that features are resized to; None: they are not.
    """

    centred_offset: NDArray[np.float32]
    score_scale: NDArray[np.float32]
    head_weight: NDArray[np.float32]
    head_bias: NDArray[np.float32]
    map_weight: NDArray[np.float32]
    map_offset: NDArray[np.float32]
    map_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class SparseTable:
    """The head's non-zero weights, one row per class.

    Attributes:
        concepts: INT32 [K,S] by rising index, then NO_CONCEPT.
        weights: FP32 [K,S], zero where there is no concept.
    """

    concepts: NDArray[np.int32]
    weights: NDArray[np.float32]


def linear_head(model: SalfModel) -> LinearHead:
    """Take a model's buffers as float64 arrays.

    Raises:
        SourceError: values that are not finite, or a standard deviation that is not positive.
    """

    def array(name: str) -> _Float64:
        return model.get_buffer(name).detach().cpu().double().numpy()

    return LinearHead(
        concept_weight=array("concept_weight"),
        concept_bias=array("concept_bias"),
        score_mean=array("score_mean"),
        score_std=array("score_std"),
        head_weight=array("head_weight"),
        head_bias=array("head_bias"),
        pooling=model.pooling,
        map_size=model.map_size,
    )


def graph_head(head: LinearHead) -> FoldedHead | SoftmaxHead:
    """The constants that the head's pooling needs.

    Raises:
        SourceError: a constant does not fit into float32.
    """
    return fold(head) if head.pooling == "average" else centre(head)


def fold(head: LinearHead) -> FoldedHead:
    """Multiply out in float64, then round once to float32.

    Args:
        head: with average pooling; any other cannot be multiplied out.

    Raises:
        SourceError: a product does not fit into float32.
    """
    if head.pooling != "average":
        raise SourceError(f"a head with {head.pooling} pooling cannot be folded: its scores are not linear in features")
    score_weight = head.concept_weight / head.score_std[:, None]
    score_offset = (head.concept_bias - head.score_mean) / head.score_std
    folded = {
        "score_weight": score_weight,
        "score_offset": score_offset,
        "logit_weight": head.head_weight @ score_weight,
        "logit_offset": head.head_weight @ score_offset + head.head_bias,
        "head_weight": head.head_weight,
        "head_bias": head.head_bias,
        "map_weight": head.concept_weight,
        "map_offset": head.concept_bias,
    }
    return FoldedHead(**_rounded(folded), map_size=head.map_size)


def centre(head: LinearHead) -> SoftmaxHead:
    """Fold the scores' mean into the bottleneck's bias, in float64; round once to float32.

    Raises:
        SourceError: a constant does not fit into float32.
    """
    constants = {
        "centred_offset": head.concept_bias - head.score_mean,
        "score_scale": 1.0 / head.score_std,
        "head_weight": head.head_weight,
        "head_bias": head.head_bias,
        "map_weight": head.concept_weight,
        "map_offset": head.concept_bias,
    }
    return SoftmaxHead(**_rounded(constants), map_size=head.map_size)


def _rounded(constants: Mapping[str, _Float64]) -> dict[str, NDArray[np.float32]]:
    largest = float(np.finfo(np.float32).max)
    for name, values in constants.items():
        if np.abs(values).max() > largest:
            raise SourceError(f"{name} reaches {np.abs(values).max():.3g}, too large for float32; check score_std")
    return {name: values.astype(np.float32) for name, values in constants.items()}


def most_concepts_per_class(head_weight: NDArray[np.float32]) -> int:
    """The largest number of non-zero weights in a row of W_g [K,M]."""
    return int(np.count_nonzero(head_weight, axis=1).max())


def sparse_table(head_weight: NDArray[np.float32], *, slots: int) -> SparseTable:
    """List each class's concepts with a non-zero weight.

    Args:
        head_weight: FP32 [K,M].
        slots: S, at least `most_concepts_per_class`.
    """
    classes = head_weight.shape[0]
    concepts = np.full((classes, slots), NO_CONCEPT, np.int32)
    weights = np.zeros((classes, slots), np.float32)
    for k, row in enumerate(head_weight):
        used = np.flatnonzero(row)
        concepts[k, : used.size] = used
        weights[k, : used.size] = row[used]
    return SparseTable(concepts, weights)
