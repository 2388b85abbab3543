"""The served graphs, written node by node behind a feature source.

Axis letters: B batch, C features, h' w' features' cells, h w concept map, K classes, M concepts, n top slots.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from salf_contract import (
    ALL_MAPS_OUTPUTS,
    ALL_SCORES_OUTPUTS,
    EXPLAIN_INPUTS,
    EXPLAIN_OUTPUTS,
    FROM_FEATURES_OUTPUTS,
    IMAGE_INPUT,
    WHAT_IF_INPUTS,
    WHAT_IF_OUTPUTS,
    TensorSpec,
)
from salf_export.average_pooling import AveragePooling
from salf_export.evidence import show, target_class
from salf_export.folding import FoldedHead, SoftmaxHead
from salf_export.graph_builder import GraphBuilder
from salf_export.resizing import add_resize
from salf_export.softmax_pooling import SoftmaxPooling
from salf_export.what_if import only_if_asked, read_edits, score_shifts, write_before_and_after

Head = FoldedHead | SoftmaxHead


def explain_graph(
    source: ModelProto,
    head: Head,
    *,
    top: int,
    contract_id: NDArray[np.int32],
    sparse: bool | None = None,
) -> ModelProto:
    """Logits and the explanation of one class, with the contract's EXPLAIN outputs.

    A `target` outside 0..K-1 (clients refuse those) is answered for the predicted class; `target_class` says which.
    Under average pooling and with a sparse head, neither all M scores nor all M maps are computed.

    Args:
        source: model with the single output features FP32 [B,C,h',w'].
        head: its constants; decides the pooling.
        top: n, 1..M.
        contract_id: INT32 [4], goes into every answer.
        sparse: look only at a class's concepts with non-zero weight; None chooses by their share. Average pooling only.

    Raises:
        GraphError: the result is not valid.
    """
    graph = GraphBuilder(source)
    dims = _explain(graph, _pooling(graph, head), head, top=top, sparse=sparse)
    return _finish(graph, EXPLAIN_OUTPUTS, dims, name="explain", contract_id=contract_id)


def all_maps_graph(source: ModelProto, head: Head, *, contract_id: NDArray[np.int32]) -> ModelProto:
    """All raw concept maps c(x) FP32 [B,M,h,w].

    Args:
        source: model with the single output features FP32 [B,C,h',w'].
        head: its constants.
        contract_id: INT32 [4].

    Raises:
        GraphError: the result is not valid.
    """
    graph = GraphBuilder(source)
    dims = _all_maps(graph, head)
    return _finish(graph, ALL_MAPS_OUTPUTS, dims, name="all_maps", contract_id=contract_id)


def all_scores_graph(source: ModelProto, head: Head, *, contract_id: NDArray[np.int32]) -> ModelProto:
    """All concept scores z FP32 [B,M].

    Args:
        source: model with the single output features FP32 [B,C,h',w'].
        head: its constants; decides the pooling.
        contract_id: INT32 [4].

    Raises:
        GraphError: the result is not valid.
    """
    graph = GraphBuilder(source)
    dims = _all_scores(_pooling(graph, head), head)
    return _finish(graph, ALL_SCORES_OUTPUTS, dims, name="all_scores", contract_id=contract_id)


def from_features_graph(source: ModelProto, head: Head, *, top: int, contract_id: NDArray[np.int32]) -> ModelProto:
    """Explanation, all maps and all scores in one graph, with the contract's FROM_FEATURES outputs.

    For published cases and tests: what it computes too much does not matter there.

    Args:
        source: `identity_features`.
        head: its constants; decides the pooling.
        top: n, 1..M.
        contract_id: INT32 [4].

    Raises:
        GraphError: the result is not valid.
    """
    graph = GraphBuilder(source)
    pooling = _pooling(graph, head)
    dims = _explain(graph, pooling, head, top=top, sparse=None) | _all_maps(graph, head) | _all_scores(pooling, head)
    return _finish(graph, FROM_FEATURES_OUTPUTS, dims, name="from_features", contract_id=contract_id)


def what_if_graph(source: ModelProto, head: Head, *, contract_id: NDArray[np.int32]) -> ModelProto:
    """What is in a region, and what a class would get if concepts were edited, with the contract's WHAT_IF tensors.

    Under average pooling nothing [M,h,w]-sized is computed; under softmax pooling only edited maps are pooled again.
    Edits of concepts outside 0..M-1 change nothing, and an empty region has the scores 0 (clients refuse both but for
    NO_CONCEPT and the empty region, which ask for nothing).

    Args:
        source: model with the single output features FP32 [B,C,h',w'].
        head: its constants; decides the pooling.
        contract_id: INT32 [4].

    Raises:
        GraphError: the result is not valid.
    """
    graph = GraphBuilder(source)
    pooling = _pooling(graph, head)
    classes, concepts = head.head_weight.shape
    size = pooling.map_size
    inputs = {spec.name: graph.add_input(spec, map_size=size) for spec in WHAT_IF_INPUTS if spec != IMAGE_INPUT}
    logits = pooling.logits()
    target = target_class(graph, inputs["target"], logits, classes=classes)
    _bias(graph, head, target)
    only_if_asked(graph, pooling.region_scores(inputs["region"]), inputs["region"])
    edits = read_edits(graph, inputs, concepts=concepts, map_size=size)
    write_before_and_after(
        graph,
        scores=pooling.all_scores(name="all_scores"),
        shifts=score_shifts(graph, edits, pooling.slot_shifts(edits), concepts=concepts),
        logits=logits,
        target=target,
        head_weight=graph.constant("head_weight", head.head_weight),
    )
    of_concepts = ("region_scores", "contributions", "edited_contributions")
    dims: dict[str, Sequence[int]] = {name: [concepts] for name in of_concepts}
    dims |= {"logits": [classes], "edited_logits": [classes]}
    return _finish(graph, WHAT_IF_OUTPUTS, dims, name="what_if", contract_id=contract_id)


def _pooling(graph: GraphBuilder, head: Head) -> AveragePooling | SoftmaxPooling:
    return SoftmaxPooling(graph, head) if isinstance(head, SoftmaxHead) else AveragePooling(graph, head)


def _explain(
    graph: GraphBuilder, pooling: AveragePooling | SoftmaxPooling, head: Head, *, top: int, sparse: bool | None
) -> dict[str, Sequence[int]]:
    """All EXPLAIN outputs but the contract id; returns the dims of those whose dims vary."""
    classes = len(head.head_weight)
    logits = pooling.logits()
    wanted = graph.add_input(next(spec for spec in EXPLAIN_INPUTS if spec.name == "target"))
    target = target_class(graph, wanted, logits, classes=classes)
    _bias(graph, head, target)
    shown = show(graph, pooling.candidates(target, top=top, sparse=sparse), top=top)
    pooling.top_maps(shown)
    return {
        "logits": [classes],
        "top_concepts": [top],
        "top_contributions": [top],
        "top_scores": [top],
        "top_maps": [top, *pooling.map_size],
    }


def _bias(graph: GraphBuilder, head: Head, target: str) -> None:
    """Output `bias` [B,1] of the target class."""
    graph.add("Gather", graph.constant("head_bias", head.head_bias[:, None]), target, name="bias", axis=0)


def _all_maps(graph: GraphBuilder, head: Head) -> dict[str, Sequence[int]]:
    """Output `all_maps` [B,M,h,w]."""
    cells = graph.feature_shape[1:]
    size = cells if head.map_size is None else head.map_size
    weight = graph.constant("map_weight", head.map_weight[:, :, None, None])
    offset = graph.constant("map_offset", head.map_offset)
    name = "all_maps" if size == cells else "all_maps_of_features"
    maps = graph.add("Conv", graph.features, weight, offset, name=name, kernel_shape=[1, 1])
    if size != cells:
        flat_shape = graph.constant("flat_maps_shape", np.array([0, 0, cells[0] * cells[1]], np.int64))
        flat = graph.add("Reshape", maps, flat_shape, name="all_maps_flat")
        resized = add_resize(graph, flat, cells, size, name="all_maps_resized")
        graph.add("Reshape", resized, graph.constant("maps_shape", np.array([0, 0, *size], np.int64)), name="all_maps")
    return {"all_maps": [len(head.map_weight), *size]}


def _all_scores(pooling: AveragePooling | SoftmaxPooling, head: Head) -> dict[str, Sequence[int]]:
    """Output `all_scores` [B,M]."""
    pooling.all_scores(name="all_scores")
    return {"all_scores": [len(head.map_weight)]}


def _finish(
    graph: GraphBuilder,
    outputs: Sequence[TensorSpec],
    dims: dict[str, Sequence[int]],
    *,
    name: str,
    contract_id: NDArray[np.int32],
) -> ModelProto:
    _contract_id(graph, contract_id)
    fixed = {spec.name: [dim for dim in spec.dims if isinstance(dim, int)] for spec in outputs}
    return graph.finish([(spec, dims.get(spec.name, fixed[spec.name])) for spec in outputs], name=name)


def _contract_id(graph: GraphBuilder, contract_id: NDArray[np.int32]) -> None:
    """Output `contract_id` [B,4]: the same in every row.

    Added to zeros made from the picture rather than expanded to its shape: OpenVINO 2026.4 reads a shape from any
    tensor of the same batch, and where that is a convolution followed by int8, it loses the convolution's bias. The
    zeros are made from the picture as floats, because TensorRT cuts no UINT8.
    """
    rank = graph.first_rank
    begin, end = np.zeros(rank - 1, np.int64), np.ones(rank - 1, np.int64)
    inner = graph.constant("inner_axes", np.arange(1, rank, dtype=np.int64))
    corner = graph.add(
        "Slice",
        graph.first_floats,
        graph.constant("corner_begin", begin),
        graph.constant("corner_end", end),
        inner,
        name="corner",
    )
    column = graph.add(
        "Reshape", corner, graph.constant("column_shape", np.array([-1, 1], np.int64)), name="corner_column"
    )
    whole = graph.add("Cast", column, name="corner_whole", to=TensorProto.INT32)
    nothing = graph.add("Mul", whole, graph.constant("no_corner", np.zeros((1, 1), np.int32)), name="batch_of_zeros")
    graph.add("Add", nothing, graph.constant("contract_id_words", contract_id[None]), name="contract_id")
