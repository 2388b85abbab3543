"""Nodes behind features under softmax pooling: every map must exist inside the graph, only the top n leave it.

Pooling is not linear, so the division by std comes after it; the shift by the mean goes into the maps, where it changes
nothing (see folding.py).
Axis letters: B batch, C features, h' w' features' cells, h w concept map, K classes, M concepts, n top slots.
"""

import numpy as np

from salf_export.evidence import Candidates, axes, rank, row_index, write_top_maps
from salf_export.folding import SoftmaxHead
from salf_export.graph_builder import GraphBuilder
from salf_export.resizing import Size, add_resize


class SoftmaxPooling:
    """Appends the nodes of a centred head.

    Args:
        graph: to append to.
        head: its constants.
    """

    def __init__(self, graph: GraphBuilder, head: SoftmaxHead) -> None:
        self._graph = graph
        self._head = head
        cells = graph.feature_shape[1:]
        self.map_size: Size = cells if head.map_size is None else head.map_size
        self._maps = self._centred_maps(cells)
        self._scores = self._pool()

    def logits(self) -> str:
        """Output `logits` [B,K]."""
        weight = self._graph.constant("head_weight", self._head.head_weight)
        bias = self._graph.constant("head_bias_row", self._head.head_bias)
        return self._graph.add("Gemm", self._scores, weight, bias, name="logits", transB=1)

    def all_scores(self, *, name: str) -> str:
        """All z [B,M]; they exist anyway."""
        return self._graph.add("Identity", self._scores, name=name)

    def candidates(self, target: str, *, top: int, sparse: bool | None) -> Candidates:  # noqa: ARG002 - as AveragePooling
        """What may be shown for the target class INT32 [B]: all concepts, since all scores exist."""
        weight = self._graph.constant("head_weight", self._head.head_weight)
        weights = self._graph.add("Gather", weight, target, name="weights", axis=0)
        return rank(self._graph, None, self._scores, weights)

    def top_maps(self, shown: str) -> None:
        """Output `top_maps` [B,n,h,w]: n of the centred maps, over their std."""
        graph = self._graph
        index = row_index(graph, shown, name="top")
        column = graph.add("Unsqueeze", index, axes(graph, 2), name="top_rows_column")  # [B,n,1]
        shape = graph.add("Shape", shown, name="top_maps_slots")
        cells = graph.constant("map_cells", np.array([self.map_size[0] * self.map_size[1]], np.int64))
        whole = graph.add("Concat", shape, cells, name="top_maps_flat_shape", axis=0)
        everywhere = graph.add("Expand", column, whole, name="top_rows_of_cells")  # [B,n,h*w]
        maps = graph.add("GatherElements", self._maps, everywhere, name="top_maps_centred", axis=1)
        scale = graph.add("Gather", self._scale(), index, name="top_scales", axis=0)
        scale_column = graph.add("Unsqueeze", scale, axes(graph, 2), name="top_scales_column")
        write_top_maps(graph, graph.add("Mul", maps, scale_column, name="top_maps_or_more"), shown, size=self.map_size)

    def _centred_maps(self, cells: Size) -> str:
        """c(x) - mean, FP32 [B,M,h*w]."""
        graph = self._graph
        weight = graph.constant("map_weight", self._head.map_weight[:, :, None, None])
        offset = graph.constant("centred_offset", self._head.centred_offset)
        maps = graph.add("Conv", graph.features, weight, offset, name="centred_maps", kernel_shape=[1, 1])
        shape = graph.constant("flat_maps_shape", np.array([0, 0, cells[0] * cells[1]], np.int64))
        flat = graph.add("Reshape", maps, shape, name="centred_maps_flat")
        return add_resize(graph, flat, cells, self.map_size, name="centred_maps_resized")

    def _pool(self) -> str:
        """Z [B,M]: each centred map averaged with its own spatial softmax as weights, over its std."""
        graph = self._graph
        shares = graph.add("Softmax", self._maps, name="cell_shares", axis=2)
        shared = graph.add("Mul", shares, self._maps, name="weighted_maps")
        pooled = graph.add("ReduceSum", shared, axes(graph, 2), name="pooled", keepdims=0)
        return graph.add("Mul", pooled, self._scale(), name="scores")

    def _scale(self) -> str:
        return self._graph.constant("score_scale", self._head.score_scale)
