"""Graph nodes that do not depend on the pooling: the class to explain, its top concepts, the rest, the coverage.

Axis letters: B batch, K classes, M concepts, n top slots, S concepts looked at.
"""

from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from salf_contract import NO_CONCEPT
from salf_export.graph_builder import GraphBuilder


class Candidates(NamedTuple):
    """Names of the values that the top concepts are chosen from, each [B,S]."""

    concepts: str | None  # INT32, NO_CONCEPT in padding; None: position s is concept s
    scores: str  # z
    contributions: str
    ranks: str  # |contribution|, -1 where the weight is zero


def target_class(graph: GraphBuilder, wanted: str, logits: str, *, classes: int) -> str:
    """The class to explain, INT32 [B]; also the output `target_class` [B,1]."""
    best = graph.add("ArgMax", logits, name="best_class_long", axis=1, keepdims=1)
    predicted = graph.add("Cast", best, name="best_class", to=TensorProto.INT32)
    at_least_zero = graph.add("Less", graph.constant("minus_one", np.array(-1, np.int32)), wanted, name="not_negative")
    below_count = graph.add(
        "Less", wanted, graph.constant("classes", np.array(classes, np.int32)), name="not_too_large"
    )
    known = graph.add("And", at_least_zero, below_count, name="target_is_known")
    graph.add("Where", known, wanted, predicted, name="target_class")
    return graph.add("Squeeze", "target_class", axes(graph, 1), name="target_row")


def rank(graph: GraphBuilder, concepts: str | None, scores: str, weights: str) -> Candidates:
    """Contributions and the order in which concepts are shown."""
    contributions = graph.add("Mul", weights, scores, name="contributions")
    size = graph.add("Abs", contributions, name="contribution_sizes")
    unused = graph.add("Equal", weights, zero(graph), name="unused")
    # A concept that happens to contribute 0 still comes before a slot without a concept.
    ranks = graph.add("Where", unused, graph.constant("last", np.array(-1, np.float32)), size, name="ranks")
    return Candidates(concepts, scores, contributions, ranks)


def show(graph: GraphBuilder, candidates: Candidates, *, top: int) -> str:
    """Choose the top concepts and write all outputs about them but their maps.

    Outputs `top_concepts`, `top_contributions`, `top_scores` [B,n], `rest_contribution`, `coverage` [B,1].

    Returns:
        The name of `top_concepts`, INT32.
    """
    _, chosen = graph.add_top_k(candidates.ranks, top, name="top")
    ranks = graph.add("GatherElements", candidates.ranks, chosen, name="top_ranks", axis=1)
    empty = graph.add("Less", ranks, zero(graph), name="top_is_empty")
    if candidates.concepts is None:
        concepts = graph.add("Cast", chosen, name="top_positions", to=TensorProto.INT32)
    else:
        concepts = graph.add("GatherElements", candidates.concepts, chosen, name="top_positions", axis=1)
    none = graph.constant("no_concept", np.array(NO_CONCEPT, np.int32))
    graph.add("Where", empty, none, concepts, name="top_concepts")
    for values, name in ((candidates.contributions, "top_contributions"), (candidates.scores, "top_scores")):
        picked = graph.add("GatherElements", values, chosen, name=f"{name}_or_more", axis=1)
        graph.add("Where", empty, zero(graph), picked, name=name)
    _rest_and_coverage(graph, candidates, chosen)
    return "top_concepts"


def write_top_maps(graph: GraphBuilder, flat: str, shown: str, *, size: tuple[int, int]) -> None:
    """Output `top_maps` [B,n,h,w] from flat maps [B,n,h*w]: zero in slots without a concept."""
    present = graph.add("Less", graph.constant("minus_one", np.array(-1, np.int32)), shown, name="top_is_concept")
    present_column = graph.add("Unsqueeze", present, axes(graph, 2), name="top_is_concept_column")
    masked = graph.add("Where", present_column, flat, zero(graph), name="top_maps_flat")
    shape = graph.constant("maps_shape", np.array([0, 0, *size], np.int64))
    graph.add("Reshape", masked, shape, name="top_maps")


def row_index(graph: GraphBuilder, concepts: str, *, name: str) -> str:
    """Concepts INT32 [B,s] as rows to gather; NO_CONCEPT takes row 0."""
    return graph.add("Max", concepts, graph.constant("first_concept", np.array(0, np.int32)), name=f"{name}_rows_index")


def zero(graph: GraphBuilder) -> str:
    """The FP32 scalar 0."""
    return graph.constant("zero", np.array(0, np.float32))


def axes(graph: GraphBuilder, axis: int) -> str:
    """One axis, as operators since opset 13 take it."""
    return graph.constant(f"axis_{axis}", np.array([axis], np.int64))


def _rest_and_coverage(graph: GraphBuilder, candidates: Candidates, chosen: str) -> None:
    """Outputs `rest_contribution` and `coverage` [B,1]; the rest is summed, never subtracted."""
    shape = graph.add("Shape", chosen, name="top_shape")
    zeros = graph.add("Expand", zero(graph), shape, name="top_zeros")
    rest = graph.add("ScatterElements", candidates.contributions, chosen, zeros, name="rest", axis=1)
    graph.add("ReduceSum", rest, axes(graph, 1), name="rest_contribution", keepdims=1)
    rest_sizes = graph.add("Abs", rest, name="rest_sizes")
    shown_sizes = graph.add("Abs", "top_contributions", name="shown_sizes")
    rest_size = graph.add("ReduceSum", rest_sizes, axes(graph, 1), name="rest_size", keepdims=1)
    shown_size = graph.add("ReduceSum", shown_sizes, axes(graph, 1), name="shown_size", keepdims=1)
    size = graph.add("Add", shown_size, rest_size, name="size")
    # Nothing contributes at all: nothing is missing from what is shown.
    nothing = graph.add("Equal", size, zero(graph), name="nothing_contributes")
    one = graph.constant("one", np.array(1, np.float32))
    divisor = graph.add("Where", nothing, one, size, name="size_or_one")
    share = graph.add("Div", shown_size, divisor, name="shown_share")
    graph.add("Where", nothing, one, share, name="coverage")
