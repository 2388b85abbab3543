"""The three served graphs, written node by node behind a feature source.

Axis letters: B batch, C features, h w concept map, K classes, M concepts, n top slots, S concepts looked at.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from salf_contract import ALL_MAPS_OUTPUTS, ALL_SCORES_OUTPUTS, EXPLAIN_INPUTS, EXPLAIN_OUTPUTS, NO_CONCEPT
from salf_export.folding import FoldedHead, most_concepts_per_class, sparse_table
from salf_export.graph_builder import GraphBuilder

#: Above this share of M, computing all z in one matrix product is cheaper than gathering the class's own rows of A.
#: Measured on two cores (C=2048, M=4741): at batch 8 they break even between 0.05 and 0.15, at batch 1 above 0.5.
SPARSE_SHARE = 1 / 10


class _Candidates(NamedTuple):
    """Names of the values that the top concepts are chosen from, each [B,S]."""

    concepts: str | None  # INT32, NO_CONCEPT in padding; None: position s is concept s
    scores: str  # z
    contributions: str
    ranks: str  # |contribution|, -1 where the weight is zero


def explain_graph(
    source: ModelProto,
    head: FoldedHead,
    *,
    top: int,
    contract_id: NDArray[np.int32],
    sparse: bool | None = None,
) -> ModelProto:
    """Logits and the explanation of one class, with the contract's EXPLAIN outputs.

    A `target` outside 0..K-1 (clients refuse those) is answered for the predicted class; `target_class` says which.
    Neither all M scores nor all M maps are computed when the head is sparse.

    Args:
        source: model with the single output features FP32 [B,C,h,w].
        head: folded constants.
        top: n, 1..M.
        contract_id: INT32 [4], goes into every answer.
        sparse: look only at a class's concepts with non-zero weight; None chooses by SPARSE_SHARE.

    Raises:
        GraphError: the result is not valid.
    """
    graph = GraphBuilder(source)
    classes, concepts = head.head_weight.shape
    channels, rows, columns = graph.feature_shape
    pooled = _pool(graph)
    logits = graph.add(
        "Gemm",
        pooled,
        graph.constant("logit_weight", head.logit_weight),
        graph.constant("logit_offset", head.logit_offset),
        name="logits",
        transB=1,
    )
    wanted = graph.add_input(next(spec for spec in EXPLAIN_INPUTS if spec.name == "target"))
    target = _target_class(graph, wanted, logits, classes=classes)
    graph.add("Gather", graph.constant("head_bias", head.head_bias[:, None]), target, name="bias", axis=0)

    slots = max(top, most_concepts_per_class(head.head_weight))
    if sparse is None:
        sparse = slots <= SPARSE_SHARE * concepts
    look = _look_at_own_concepts if sparse else _look_at_all_concepts
    candidates = look(graph, head, target, pooled, slots)
    _, chosen = graph.add_top_k(candidates.ranks, top, name="top")
    shown = _show(graph, candidates, chosen)
    _rest_and_coverage(graph, candidates, chosen)
    _top_maps(graph, head, shown, channels=channels, cells=rows * columns)
    _contract_id(graph, contract_id)
    dims = {
        "logits": [classes],
        "top_concepts": [top],
        "top_contributions": [top],
        "top_scores": [top],
        "top_maps": [top, rows, columns],
    }
    return graph.finish([(spec, dims.get(spec.name, _fixed(spec.dims))) for spec in EXPLAIN_OUTPUTS], name="explain")


def all_maps_graph(source: ModelProto, head: FoldedHead, *, contract_id: NDArray[np.int32]) -> ModelProto:
    """All raw concept maps c(x) FP32 [B,M,h,w].

    Args:
        source: model with the single output features FP32 [B,C,h,w].
        head: folded constants.
        contract_id: INT32 [4].

    Raises:
        GraphError: the result is not valid.
    """
    graph = GraphBuilder(source)
    _, rows, columns = graph.feature_shape
    graph.add(
        "Conv",
        graph.features,
        graph.constant("map_weight", head.map_weight[:, :, None, None]),
        graph.constant("map_offset", head.map_offset),
        name="all_maps",
        kernel_shape=[1, 1],
    )
    _contract_id(graph, contract_id)
    dims = {"all_maps": [head.map_weight.shape[0], rows, columns]}
    return graph.finish([(spec, dims.get(spec.name, _fixed(spec.dims))) for spec in ALL_MAPS_OUTPUTS], name="all_maps")


def all_scores_graph(source: ModelProto, head: FoldedHead, *, contract_id: NDArray[np.int32]) -> ModelProto:
    """All concept scores z FP32 [B,M].

    Args:
        source: model with the single output features FP32 [B,C,h,w].
        head: folded constants.
        contract_id: INT32 [4].

    Raises:
        GraphError: the result is not valid.
    """
    graph = GraphBuilder(source)
    _all_scores(graph, head, _pool(graph), name="all_scores")
    _contract_id(graph, contract_id)
    dims = {"all_scores": [head.score_weight.shape[0]]}
    return graph.finish(
        [(spec, dims.get(spec.name, _fixed(spec.dims))) for spec in ALL_SCORES_OUTPUTS], name="all_scores"
    )


def _pool(graph: GraphBuilder) -> str:
    """Mean features g [B,C]."""
    mean = graph.add("GlobalAveragePool", graph.features, name="mean_features_map")
    return graph.add("Flatten", mean, name="mean_features", axis=1)


def _all_scores(graph: GraphBuilder, head: FoldedHead, pooled: str, *, name: str) -> str:
    """All z [B,M] by one matrix product."""
    weight = graph.constant("score_weight", head.score_weight)
    offset = graph.constant("score_offset", head.score_offset)
    return graph.add("Gemm", pooled, weight, offset, name=name, transB=1)


def _target_class(graph: GraphBuilder, wanted: str, logits: str, *, classes: int) -> str:
    """The class to explain, INT32 [B]; also the output `target_class` [B,1]."""
    best = graph.add("ArgMax", logits, name="best_class_long", axis=1, keepdims=1)
    predicted = graph.add("Cast", best, name="best_class", to=TensorProto.INT32)
    at_least_zero = graph.add("Less", graph.constant("minus_one", np.array(-1, np.int32)), wanted, name="not_negative")
    below_count = graph.add(
        "Less", wanted, graph.constant("classes", np.array(classes, np.int32)), name="not_too_large"
    )
    known = graph.add("And", at_least_zero, below_count, name="target_is_known")
    graph.add("Where", known, wanted, predicted, name="target_class")
    return graph.add("Squeeze", "target_class", _axes(graph, 1), name="target_row")


def _look_at_own_concepts(graph: GraphBuilder, head: FoldedHead, target: str, pooled: str, slots: int) -> _Candidates:
    """Only the target's concepts with non-zero weight: all other contributions are exactly zero."""
    table = sparse_table(head.head_weight, slots=slots)
    concepts = graph.add(
        "Gather", graph.constant("table_concepts", table.concepts), target, name="own_concepts", axis=0
    )
    weights = graph.add("Gather", graph.constant("table_weights", table.weights), target, name="own_weights", axis=0)
    rows, offsets = _rows_of_scores(graph, head, concepts, name="own")
    column = graph.add("Unsqueeze", pooled, _axes(graph, 2), name="mean_features_column")  # [B,C,1]
    product = graph.add("MatMul", rows, column, name="own_products_column")  # [B,S,1]
    products = graph.add("Squeeze", product, _axes(graph, 2), name="own_products")
    scores = graph.add("Add", products, offsets, name="own_scores")
    return _rank(graph, concepts, scores, weights)


def _look_at_all_concepts(
    graph: GraphBuilder,
    head: FoldedHead,
    target: str,
    pooled: str,
    slots: int,  # noqa: ARG001 - same signature
) -> _Candidates:
    """All M concepts, for a head that uses a good part of them for one class."""
    scores = _all_scores(graph, head, pooled, name="scores")
    weights = graph.add("Gather", graph.constant("head_weight", head.head_weight), target, name="weights", axis=0)
    return _rank(graph, None, scores, weights)


def _rank(graph: GraphBuilder, concepts: str | None, scores: str, weights: str) -> _Candidates:
    contributions = graph.add("Mul", weights, scores, name="contributions")
    size = graph.add("Abs", contributions, name="contribution_sizes")
    unused = graph.add("Equal", weights, _zero(graph), name="unused")
    # A concept that happens to contribute 0 still comes before a slot without a concept.
    ranks = graph.add("Where", unused, graph.constant("last", np.array(-1, np.float32)), size, name="ranks")
    return _Candidates(concepts, scores, contributions, ranks)


def _show(graph: GraphBuilder, candidates: _Candidates, chosen: str) -> str:
    """Outputs `top_concepts`, `top_contributions`, `top_scores` [B,n]; returns the name of `top_concepts`."""
    ranks = graph.add("GatherElements", candidates.ranks, chosen, name="top_ranks", axis=1)
    empty = graph.add("Less", ranks, _zero(graph), name="top_is_empty")
    if candidates.concepts is None:
        concepts = graph.add("Cast", chosen, name="top_positions", to=TensorProto.INT32)
    else:
        concepts = graph.add("GatherElements", candidates.concepts, chosen, name="top_positions", axis=1)
    none = graph.constant("no_concept", np.array(NO_CONCEPT, np.int32))
    graph.add("Where", empty, none, concepts, name="top_concepts")
    for values, name in ((candidates.contributions, "top_contributions"), (candidates.scores, "top_scores")):
        picked = graph.add("GatherElements", values, chosen, name=f"{name}_or_more", axis=1)
        graph.add("Where", empty, _zero(graph), picked, name=name)
    return "top_concepts"


def _rest_and_coverage(graph: GraphBuilder, candidates: _Candidates, chosen: str) -> None:
    """Outputs `rest_contribution` and `coverage` [B,1]; the rest is summed, never subtracted."""
    shape = graph.add("Shape", chosen, name="top_shape")
    zeros = graph.add("Expand", _zero(graph), shape, name="top_zeros")
    rest = graph.add("ScatterElements", candidates.contributions, chosen, zeros, name="rest", axis=1)
    graph.add("ReduceSum", rest, _axes(graph, 1), name="rest_contribution", keepdims=1)
    rest_sizes = graph.add("Abs", rest, name="rest_sizes")
    shown_sizes = graph.add("Abs", "top_contributions", name="shown_sizes")
    rest_size = graph.add("ReduceSum", rest_sizes, _axes(graph, 1), name="rest_size", keepdims=1)
    shown_size = graph.add("ReduceSum", shown_sizes, _axes(graph, 1), name="shown_size", keepdims=1)
    size = graph.add("Add", shown_size, rest_size, name="size")
    # Nothing contributes at all: nothing is missing from what is shown.
    nothing = graph.add("Equal", size, _zero(graph), name="nothing_contributes")
    one = graph.constant("one", np.array(1, np.float32))
    divisor = graph.add("Where", nothing, one, size, name="size_or_one")
    share = graph.add("Div", shown_size, divisor, name="shown_share")
    graph.add("Where", nothing, one, share, name="coverage")


def _top_maps(graph: GraphBuilder, head: FoldedHead, shown: str, *, channels: int, cells: int) -> None:
    """Output `top_maps` [B,n,h,w]: n rows of A applied to the features, zero in slots without a concept."""
    _, rows, columns = graph.feature_shape
    weights, offsets = _rows_of_scores(graph, head, shown, name="top")
    flat_shape = graph.constant("flat_features_shape", np.array([0, channels, cells], np.int64))
    flat = graph.add("Reshape", graph.features, flat_shape, name="flat_features")
    products = graph.add("MatMul", weights, flat, name="top_map_products")  # [B,n,h*w]
    offset_column = graph.add("Unsqueeze", offsets, _axes(graph, 2), name="top_offsets_column")
    maps = graph.add("Add", products, offset_column, name="top_maps_or_more")
    present = graph.add("Less", graph.constant("minus_one", np.array(-1, np.int32)), shown, name="top_is_concept")
    present_column = graph.add("Unsqueeze", present, _axes(graph, 2), name="top_is_concept_column")
    masked = graph.add("Where", present_column, maps, _zero(graph), name="top_maps_flat")
    shape = graph.constant("top_maps_shape", np.array([0, 0, rows, columns], np.int64))
    graph.add("Reshape", masked, shape, name="top_maps")


def _rows_of_scores(graph: GraphBuilder, head: FoldedHead, concepts: str, *, name: str) -> tuple[str, str]:
    """Rows of A [B,s,C] and entries of a [B,s] for INT32 concepts [B,s]; NO_CONCEPT takes row 0."""
    first = graph.constant("first_concept", np.array(0, np.int32))
    index = graph.add("Max", concepts, first, name=f"{name}_rows_index")
    weight = graph.constant("score_weight", head.score_weight)
    offset = graph.constant("score_offset", head.score_offset)
    return (
        graph.add("Gather", weight, index, name=f"{name}_rows", axis=0),
        graph.add("Gather", offset, index, name=f"{name}_offsets", axis=0),
    )


def _contract_id(graph: GraphBuilder, contract_id: NDArray[np.int32]) -> None:
    """Output `contract_id` [B,4]: the same in every row."""
    shape = graph.add("Shape", graph.features, name="batch_size", start=0, end=1)
    width = graph.constant("contract_id_width", np.array([contract_id.size], np.int64))
    full = graph.add("Concat", shape, width, name="contract_id_shape", axis=0)
    graph.add("Expand", graph.constant("contract_id_words", contract_id[None]), full, name="contract_id")


def _zero(graph: GraphBuilder) -> str:
    return graph.constant("zero", np.array(0, np.float32))


def _axes(graph: GraphBuilder, axis: int) -> str:
    return graph.constant(f"axis_{axis}", np.array([axis], np.int64))


def _fixed(dims: Sequence[int | str]) -> list[int]:
    return [dim for dim in dims if isinstance(dim, int)]
