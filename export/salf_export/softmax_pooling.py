"""Nodes behind features under softmax pooling: every map must exist inside the graph, only the top n leave it.

Pooling is not linear, so the division by std comes after it; the shift by the mean goes into the maps, where it changes
nothing (see folding.py).
Axis letters: B batch, C features, h' w' features' cells, h w concept map, K classes, M concepts, n top slots.
"""

import numpy as np
from onnx import TensorProto

from salf_export.evidence import Candidates, axes, rank, row_index, write_top_maps, zero
from salf_export.folding import SoftmaxHead
from salf_export.graph_builder import GraphBuilder
from salf_export.resizing import Size, add_resize
from salf_export.what_if import Edits, first_of_concept, region_features, same_concept


class SoftmaxPooling:
    """Appends the nodes of a centred head.

    Args:
        graph: to append to.
        head: its constants.
    """

    def __init__(self, graph: GraphBuilder, head: SoftmaxHead) -> None:
        self._graph = graph
        self._head = head
        self._cells: Size = graph.feature_shape[1:]
        self.map_size: Size = self._cells if head.map_size is None else head.map_size
        self._maps = self._centred_maps()
        self._scores = graph.add("Mul", self._pool(self._maps, name="pooled"), self._scale(), name="scores")

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
        maps = self._rows_of_maps(index, name="top_maps_centred")
        scale = graph.add("Gather", self._scale(), index, name="top_scales", axis=0)
        scale_column = graph.add("Unsqueeze", scale, axes(graph, 2), name="top_scales_column")
        write_top_maps(graph, graph.add("Mul", maps, scale_column, name="top_maps_or_more"), shown, size=self.map_size)

    def region_scores(self, region: str) -> str:
        """Means of the raw maps [B,M] over the weights FP32 [B,h,w]."""
        graph = self._graph
        channels, rows, columns = graph.feature_shape
        flat_shape = graph.constant("flat_features_shape", np.array([0, channels, rows * columns], np.int64))
        flat = graph.add("Reshape", graph.features, flat_shape, name="flat_features")
        column = region_features(graph, flat, region, cells=self._cells, map_size=self.map_size)
        one_cell = graph.add("Unsqueeze", column, axes(graph, 3), name="region_features_map")  # [B,C,1,1]
        weight = graph.constant("map_weight", self._head.map_weight[:, :, None, None])
        offset = graph.constant("map_offset", self._head.map_offset)
        means = graph.add("Conv", one_cell, weight, offset, name="region_means_map", kernel_shape=[1, 1])
        return graph.add("Flatten", means, name="region_scores_or_not", axis=1)

    def slot_shifts(self, edits: Edits) -> str:
        """How far edits move their concept's z, [B,E]: the edited rows pooled again, minus what they were pooled to.

        Several edits of one concept add up in its map, so they move z together: the first slot says how far, the others
        say 0.
        """
        graph = self._graph
        same = same_concept(graph, edits)
        strengths = graph.add("Unsqueeze", edits.strengths, axes(graph, 2), name="edit_strengths_column")
        additions = graph.add("Mul", strengths, edits.masks, name="edit_additions")  # [B,E,h*w], in std
        as_numbers = graph.add("Cast", same, name="edit_same_concept_weight", to=TensorProto.FLOAT)
        together = graph.add("MatMul", as_numbers, additions, name="edit_additions_together")
        scale = graph.add("Gather", self._scale(), edits.rows, name="edit_scales", axis=0)
        scale_column = graph.add("Unsqueeze", scale, axes(graph, 2), name="edit_scales_column")
        in_maps_unit = graph.add("Div", together, scale_column, name="edit_additions_raw")
        before = self._rows_of_maps(edits.rows, name="edit_maps")
        after = graph.add("Add", before, in_maps_unit, name="edited_maps")
        pooled_before = self._pool(before, name="edit_pooled")
        pooled_after = self._pool(after, name="edited_pooled")
        moved = graph.add("Sub", pooled_after, pooled_before, name="edit_moved")
        shifts = graph.add("Mul", moved, scale, name="edit_shifts_or_more")
        return graph.add("Where", first_of_concept(graph, same), shifts, zero(graph), name="edit_shifts")

    def _rows_of_maps(self, index: str, *, name: str) -> str:
        """Centred maps [B,s,h*w] of INT32 concepts [B,s], none negative."""
        graph = self._graph
        column = graph.add("Unsqueeze", index, axes(graph, 2), name=f"{name}_column")  # [B,s,1]
        shape = graph.add("Shape", index, name=f"{name}_slots")
        cells = graph.constant("map_cells", np.array([self.map_size[0] * self.map_size[1]], np.int64))
        whole = graph.add("Concat", shape, cells, name=f"{name}_shape", axis=0)
        everywhere = graph.add("Expand", column, whole, name=f"{name}_index")  # [B,s,h*w]
        return graph.add("GatherElements", self._maps, everywhere, name=name, axis=1)

    def _centred_maps(self) -> str:
        """c(x) - mean, FP32 [B,M,h*w]."""
        graph = self._graph
        weight = graph.constant("map_weight", self._head.map_weight[:, :, None, None])
        offset = graph.constant("centred_offset", self._head.centred_offset)
        maps = graph.add("Conv", graph.features, weight, offset, name="centred_maps", kernel_shape=[1, 1])
        shape = graph.constant("flat_maps_shape", np.array([0, 0, self._cells[0] * self._cells[1]], np.int64))
        flat = graph.add("Reshape", maps, shape, name="centred_maps_flat")
        return add_resize(graph, flat, self._cells, self.map_size, name="centred_maps_resized")

    def _pool(self, maps: str, *, name: str) -> str:
        """Each map of [B,s,h*w] averaged with its own spatial softmax as weights: [B,s].

        The sum's axis is squeezed away after it, not by it: OpenVINO 2026.4 takes a product that follows a sum into the
        sum, and there scales the second picture of a batch, and all after it, by the wrong concepts' numbers.
        """
        graph = self._graph
        shares = graph.add("Softmax", maps, name=f"{name}_cell_shares", axis=2)
        shared = graph.add("Mul", shares, maps, name=f"{name}_weighted_maps")
        column = graph.add("ReduceSum", shared, axes(graph, 2), name=f"{name}_column", keepdims=1)
        return graph.add("Squeeze", column, axes(graph, 2), name=name)

    def _scale(self) -> str:
        return self._graph.constant("score_scale", self._head.score_scale)
