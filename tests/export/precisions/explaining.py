"""The explain graph over a backbone, and what it is asked."""

import numpy as np
import onnx
from numpy.typing import NDArray

from salf_export.folding import graph_head, linear_head
from salf_export.graphs import explain_graph
from salf_training.checkpoint import Checkpoint


def graph_of(source: Checkpoint, backbone: onnx.ModelProto) -> onnx.ModelProto:
    return explain_graph(backbone, graph_head(linear_head(source.model)), top=16, contract_id=np.zeros(4, np.int32))


def asked(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
    return {"image": pixels, "target": np.full((len(pixels), 1), -1, np.int32)}
