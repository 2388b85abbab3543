"""Nodes behind features under average pooling: everything is linear, so nothing [M,h,w]-sized is computed.

Axis letters: B batch, C features, h' w' features' cells, h w concept map, K classes, M concepts, S concepts looked at.
"""

import numpy as np

from salf_export.evidence import Candidates, axes, rank, row_index, write_top_maps
from salf_export.folding import FoldedHead, most_concepts_per_class, sparse_table
from salf_export.graph_builder import GraphBuilder
from salf_export.resizing import Size, add_resize, resize_matrix
from salf_export.what_if import Edits, region_features

#: Above this share of M, computing all z in one matrix product is cheaper than gathering the class's own rows of A.
#: Measured on two cores (C=2048, M=4741): at batch 8 they break even between 0.05 and 0.15, at batch 1 above 0.5.
SPARSE_SHARE = 1 / 10


class AveragePooling:
    """Appends the nodes of a folded head.

    Args:
        graph: to append to.
        head: folded constants.
    """

    def __init__(self, graph: GraphBuilder, head: FoldedHead) -> None:
        self._graph = graph
        self._head = head
        self._cells: Size = graph.feature_shape[1:]
        self.map_size: Size = self._cells if head.map_size is None else head.map_size
        self._pooled = self._pool()

    def logits(self) -> str:
        """Output `logits` [B,K]."""
        weight = self._graph.constant("logit_weight", self._head.logit_weight)
        offset = self._graph.constant("logit_offset", self._head.logit_offset)
        return self._graph.add("Gemm", self._pooled, weight, offset, name="logits", transB=1)

    def all_scores(self, *, name: str) -> str:
        """All z [B,M] by one matrix product."""
        weight = self._graph.constant("score_weight", self._head.score_weight)
        offset = self._graph.constant("score_offset", self._head.score_offset)
        return self._graph.add("Gemm", self._pooled, weight, offset, name=name, transB=1)

    def candidates(self, target: str, *, top: int, sparse: bool | None) -> Candidates:
        """What may be shown for the target class INT32 [B].

        Args:
            target: name of the classes.
            top: slots that must be filled.
            sparse: look only at a class's concepts with non-zero weight; None chooses by SPARSE_SHARE.
        """
        classes_weights = self._head.head_weight
        slots = max(top, most_concepts_per_class(classes_weights))
        if sparse is None:
            sparse = slots <= SPARSE_SHARE * classes_weights.shape[1]
        if sparse:
            return self._look_at_own_concepts(target, slots)
        scores = self.all_scores(name="scores")
        weights = self._graph.constant("head_weight", classes_weights)
        return rank(self._graph, None, scores, self._graph.add("Gather", weights, target, name="weights", axis=0))

    def top_maps(self, shown: str) -> None:
        """Output `top_maps` [B,n,h,w]: n rows of A applied to the features."""
        graph = self._graph
        weights, offsets = self._rows_of_scores(shown, name="top")
        products = graph.add("MatMul", weights, self._flat_features(), name="top_map_products")  # [B,n,h'*w']
        resized = add_resize(graph, products, self._cells, self.map_size, name="top_map_products_resized")
        offset_column = graph.add("Unsqueeze", offsets, axes(graph, 2), name="top_offsets_column")
        maps = graph.add("Add", resized, offset_column, name="top_maps_or_more")
        write_top_maps(graph, maps, shown, size=self.map_size)

    def region_scores(self, region: str) -> str:
        """Z [B,M] of the part of the picture that the weights FP32 [B,h,w] pick."""
        graph = self._graph
        column = region_features(
            graph, self._flat_features(), region, cells=self._cells, map_size=self.map_size
        )  # [B,C,1]
        features = graph.add("Squeeze", column, axes(graph, 2), name="region_features_row")
        weight = graph.constant("score_weight", self._head.score_weight)
        offset = graph.constant("score_offset", self._head.score_offset)
        return graph.add("Gemm", features, weight, offset, name="region_scores_or_not", transB=1)

    def slot_shifts(self, edits: Edits) -> str:
        """How far each edit moves its concept's z: strength * mean(mask), [B,E]."""
        graph = self._graph
        share = graph.add("ReduceMean", edits.masks, axes(graph, 2), name="edit_mask_means", keepdims=0)
        return graph.add("Mul", edits.strengths, share, name="edit_shifts")

    def _pool(self) -> str:
        """Mean g [B,C] over the cells of the features, or of the resized features."""
        graph = self._graph
        if self.map_size == self._cells:
            mean = graph.add("GlobalAveragePool", graph.features, name="mean_features_map")
            return graph.add("Flatten", mean, name="mean_features", axis=1)
        shares = resize_matrix(self._cells, self.map_size).mean(axis=1, keepdims=True).astype(np.float32)
        mean = graph.add(
            "MatMul", self._flat_features(), graph.constant("cell_shares", shares), name="mean_features_column"
        )
        return graph.add("Squeeze", mean, axes(graph, 2), name="mean_features")

    def _flat_features(self) -> str:
        """Features [B,C,h'*w']."""
        graph = self._graph
        channels, rows, columns = graph.feature_shape
        shape = graph.constant("flat_features_shape", np.array([0, channels, rows * columns], np.int64))
        return graph.add_once("Reshape", graph.features, shape, name="flat_features")

    def _look_at_own_concepts(self, target: str, slots: int) -> Candidates:
        """Only the target's concepts with non-zero weight: all other contributions are exactly zero."""
        graph = self._graph
        table = sparse_table(self._head.head_weight, slots=slots)
        concepts = graph.add(
            "Gather", graph.constant("table_concepts", table.concepts), target, name="own_concepts", axis=0
        )
        weights = graph.add(
            "Gather", graph.constant("table_weights", table.weights), target, name="own_weights", axis=0
        )
        rows, offsets = self._rows_of_scores(concepts, name="own")
        column = graph.add("Unsqueeze", self._pooled, axes(graph, 2), name="pooled_column")  # [B,C,1]
        product = graph.add("MatMul", rows, column, name="own_products_column")  # [B,S,1]
        products = graph.add("Squeeze", product, axes(graph, 2), name="own_products")
        scores = graph.add("Add", products, offsets, name="own_scores")
        return rank(graph, concepts, scores, weights)

    def _rows_of_scores(self, concepts: str, *, name: str) -> tuple[str, str]:
        """Rows of A [B,s,C] and entries of a [B,s] for INT32 concepts [B,s]."""
        graph = self._graph
        index = row_index(graph, concepts, name=name)
        weight = graph.constant("score_weight", self._head.score_weight)
        offset = graph.constant("score_offset", self._head.score_offset)
        return (
            graph.add("Gather", weight, index, name=f"{name}_rows", axis=0),
            graph.add("Gather", offset, index, name=f"{name}_offsets", axis=0),
        )
