"""Nodes of what-if questions: what is in this region, and what if some concepts were weaker or stronger somewhere?

Both poolings answer in the same terms: scores of the region, and how far each edit moves its concept's score z.
Axis letters: B batch, C features, h' w' features' cells, h w concept map, K classes, M concepts, E edit slots.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from salf_contract import EDIT_SLOTS
from salf_export.evidence import axes, zero
from salf_export.graph_builder import GraphBuilder
from salf_export.resizing import Size, resize_matrix


@dataclass(frozen=True)
class Edits:
    """Names of the edits of a batch. Slots without a concept of the model have strength 0 and masks 0 throughout.

    Attributes:
        concepts: INT32 [B,E], as asked.
        rows: INT32 [B,E], a row to gather; slots without a concept take row 0.
        strengths: FP32 [B,E] in training standard deviations.
        masks: FP32 [B,E,h*w].
    """

    concepts: str
    rows: str
    strengths: str
    masks: str


def read_edits(graph: GraphBuilder, inputs: Mapping[str, str], *, concepts: int, map_size: Size) -> Edits:
    """The edits among the graph's inputs; a slot whose concept does not exist changes nothing, whatever it holds."""
    wanted = inputs["edit_concepts"]
    minus_one = graph.constant("minus_one", np.array(-1, np.int32))
    is_positive = graph.add("Less", minus_one, wanted, name="edit_not_negative")
    is_small = graph.add("Less", wanted, graph.constant("concepts", np.array(concepts, np.int32)), name="edit_in_range")
    is_used = graph.add("And", is_positive, is_small, name="edit_is_used")
    rows = graph.add("Where", is_used, wanted, _first(graph), name="edit_rows_index")
    strengths = graph.add("Where", is_used, inputs["edit_strengths"], zero(graph), name="edit_strengths_used")
    cells = map_size[0] * map_size[1]
    flat_shape = graph.constant("flat_masks_shape", np.array([0, EDIT_SLOTS, cells], np.int64))
    flat = graph.add("Reshape", inputs["edit_masks"], flat_shape, name="edit_masks_flat")
    is_used_column = graph.add("Unsqueeze", is_used, axes(graph, 2), name="edit_is_used_column")
    masks = graph.add("Where", is_used_column, flat, zero(graph), name="edit_masks_used")
    return Edits(wanted, rows, strengths, masks)


def region_features(graph: GraphBuilder, flat_features: str, region: str, *, cells: Size, map_size: Size) -> str:
    """The features' mean over a region, weighted by cell: [B,C,1], for any scale of the weights.

    Args:
        graph: to append to.
        flat_features: name of [B,C,h'*w'].
        region: name of the weights FP32 [B,h,w], none negative; all zero gives zeros.
        cells: (h', w').
        map_size: (h, w).
    """
    shape = graph.constant("region_column_shape", np.array([0, map_size[0] * map_size[1], 1], np.int64))
    column = graph.add("Reshape", region, shape, name="region_column")
    # Shares of the largest weight: a sum of very small or very large weights stays within float32.
    largest = graph.add("ReduceMax", column, axes(graph, 1), name="region_largest", keepdims=1)
    divisor = _or_one(graph, largest, name="region_largest")
    scaled = graph.add("Div", column, divisor, name="region_scaled")
    total = graph.add("ReduceSum", scaled, axes(graph, 1), name="region_total", keepdims=1)
    shares = graph.add("Div", scaled, _or_one(graph, total, name="region_total"), name="region_shares")
    if map_size != cells:
        matrix = graph.constant("resize_matrix", resize_matrix(cells, map_size).astype(np.float32))
        shares = graph.add("MatMul", matrix, shares, name="region_shares_of_features")  # [B,h'*w',1]
    return graph.add("MatMul", flat_features, shares, name="region_features")


def only_if_asked(graph: GraphBuilder, scores: str, region: str) -> str:
    """Output `region_scores` [B,M]: zeros for a picture whose region is empty."""
    shape = graph.constant("region_row_shape", np.array([0, -1], np.int64))
    row = graph.add("Reshape", region, shape, name="region_row")
    largest = graph.add("ReduceMax", row, axes(graph, 1), name="region_row_largest", keepdims=1)
    is_asked = graph.add("Less", zero(graph), largest, name="region_is_asked")
    return graph.add("Where", is_asked, scores, zero(graph), name="region_scores")


def same_concept(graph: GraphBuilder, edits: Edits) -> str:
    """Which slots edit the same concept: BOOL [B,E,E]."""
    column = graph.add("Unsqueeze", edits.concepts, axes(graph, 2), name="edit_concepts_column")
    row = graph.add("Unsqueeze", edits.concepts, axes(graph, 1), name="edit_concepts_row")
    return graph.add("Equal", column, row, name="edit_same_concept")


def first_of_concept(graph: GraphBuilder, same: str) -> str:
    """Whether a slot is the first that edits its concept: BOOL [B,E]."""
    earlier = graph.constant("earlier_slots", np.tri(EDIT_SLOTS, k=-1, dtype=np.float32))
    known = graph.add("Cast", same, name="edit_same_concept_float", to=TensorProto.FLOAT)
    before = graph.add("Mul", known, earlier, name="edit_same_concept_before")
    count = graph.add("ReduceSum", before, axes(graph, 2), name="edit_earlier_count", keepdims=0)
    return graph.add("Equal", count, zero(graph), name="edit_is_first")


def score_shifts(graph: GraphBuilder, edits: Edits, slot_shifts: str, *, concepts: int) -> str:
    """Shifts of z by slot [B,E], summed by concept: [B,M]."""
    every = graph.constant("every_concept", np.arange(concepts, dtype=np.int32)[None, None])
    column = graph.add("Unsqueeze", edits.concepts, axes(graph, 2), name="edit_concepts_by_slot")
    is_its = graph.add("Equal", column, every, name="edit_is_of_concept")  # [B,E,M]
    shifts_column = graph.add("Unsqueeze", slot_shifts, axes(graph, 2), name="edit_shifts_column")
    spread = graph.add("Where", is_its, shifts_column, zero(graph), name="edit_shifts_spread")
    return graph.add("ReduceSum", spread, axes(graph, 1), name="score_shifts", keepdims=0)


def write_before_and_after(
    graph: GraphBuilder, *, scores: str, shifts: str, logits: str, target: str, head_weight: str
) -> None:
    """Outputs `contributions`, `edited_contributions` [B,M] and `edited_logits` [B,K].

    Differences are added to what was there before, so that without an edit nothing changes, not even by rounding.
    """
    weights = graph.add("Gather", head_weight, target, name="weights", axis=0)
    graph.add("Mul", weights, scores, name="contributions")
    changes = graph.add("Mul", weights, shifts, name="contribution_changes")
    graph.add("Add", "contributions", changes, name="edited_contributions")
    logit_changes = graph.add("Gemm", shifts, head_weight, name="logit_changes", transB=1)
    graph.add("Add", logits, logit_changes, name="edited_logits")


def _first(graph: GraphBuilder) -> str:
    return graph.constant("first_concept", np.array(0, np.int32))


def _or_one(graph: GraphBuilder, values: str, *, name: str) -> str:
    """The values, 1 in place of those that are not positive: a divisor."""
    is_positive = graph.add("Less", zero(graph), values, name=f"{name}_is_positive")
    return graph.add(
        "Where", is_positive, values, graph.constant("one", np.array(1, np.float32)), name=f"{name}_or_one"
    )
