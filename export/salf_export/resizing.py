"""Bilinear resizing of maps as one matrix: standard operators only, and the same numbers on every runtime.

Resizing mixes cells, a 1x1 convolution mixes channels: the two commute, so graphs resize the few maps instead of the
many features. Each target cell's weights sum to 1, so a constant added to a map stays what it is.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from salf_export.graph_builder import GraphBuilder
from salf_training.model import resize_maps

Size = tuple[int, int]


def resize_matrix(source: Size, target: Size) -> NDArray[np.float64]:
    """How much each of h'*w' source cells counts in each of h*w target cells.

    Args:
        source: (h', w').
        target: (h, w).

    Returns:
        [h'*w', h*w], columns that sum to 1: `flat_maps [..., h'*w'] @ matrix` is `resize_maps` of the model.
    """
    cells = source[0] * source[1]
    each = torch.eye(cells, dtype=torch.float64).reshape(cells, 1, *source)
    return resize_maps(each, target).reshape(cells, -1).numpy()


def add_resize(graph: GraphBuilder, flat: str, source: Size, target: Size, *, name: str) -> str:
    """Append the resizing of flat maps [B,s,h'*w'] to [B,s,h*w]; where nothing changes, nothing is appended."""
    if source == target:
        return flat
    matrix = graph.constant("resize_matrix", resize_matrix(source, target).astype(np.float32))
    return graph.add("MatMul", flat, matrix, name=name)
