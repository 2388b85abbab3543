"""Run an exported graph with ONNX Runtime, as the reference runtime."""

from collections.abc import Mapping

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

RUNTIME = f"onnxruntime {onnxruntime.__version__}"
Arrays = dict[str, NDArray[np.generic]]


class GraphSession:
    """A graph loaded on the CPU.

    Args:
        model: the graph.
        threads: of one operator.
    """

    def __init__(self, model: ModelProto, *, threads: int = 2) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.input_names: list[str] = [item.name for item in self._session.get_inputs()]
        self.output_names: list[str] = [item.name for item in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """Answer a batch; inputs that the graph does not have are left out.

        Args:
            inputs: name -> array with the batch axis first.

        Returns:
            Output name -> array.
        """
        values = self._session.run(None, {name: inputs[name] for name in self.input_names})
        return dict(zip(self.output_names, values, strict=True))
