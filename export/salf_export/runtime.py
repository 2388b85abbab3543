"""Run an exported graph, as a server will: with ONNX Runtime or with OpenVINO."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

RUNTIME = f"onnxruntime {onnxruntime.__version__}"
#: No comparison asks about more pictures at a time: what an engine must take, however few its server will form.
LARGEST_BATCH = 8
Arrays = dict[str, NDArray[np.generic]]


class Session(Protocol):
    """A loaded graph.

    Attributes:
        runtime: its name and version, such as "onnxruntime 1.32.0".
        input_names: of the graph.
        output_names: of the graph.
    """

    runtime: str
    input_names: list[str]
    output_names: list[str]

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """Answer a batch; inputs that the graph does not have are left out.

        Args:
            inputs: name -> array with the batch axis first.

        Returns:
            Output name -> array.
        """
        ...


class GraphSession:
    """A graph loaded into ONNX Runtime on the CPU; see `Session`.

    Args:
        model: the graph.
        threads: of one operator.
    """

    def __init__(self, model: ModelProto, *, threads: int = 2) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Idle sessions must not spin on the cores while another one works.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.runtime = RUNTIME
        self.input_names: list[str] = [item.name for item in self._session.get_inputs()]
        self.output_names: list[str] = [item.name for item in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """See `Session`."""
        values = self._session.run(None, {name: inputs[name] for name in self.input_names})
        return dict(zip(self.output_names, values, strict=True))


class OpenVinoSession:
    """A model compiled by OpenVINO for the CPU; see `Session`.

    Args:
        model: an `openvino.Model`; what its types say is computed, nothing is reduced further.
        threads: of one inference.
    """

    def __init__(self, model: Any, *, threads: int = 2) -> None:
        import openvino

        properties = {
            "INFERENCE_PRECISION_HINT": "f32",  # the default on CPUs with bf16 would be bf16 everywhere
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = openvino.Core().compile_model(model, "CPU", properties)
        self._request = compiled.create_infer_request()
        self.runtime = f"openvino {openvino.__version__.partition('-')[0]}"
        self.input_names: list[str] = [port.get_any_name() for port in compiled.inputs]
        self.output_names: list[str] = [port.get_any_name() for port in compiled.outputs]

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """See `Session`."""
        answer = self._request.infer({name: np.ascontiguousarray(inputs[name]) for name in self.input_names})
        return {name: np.array(answer[name]) for name in self.output_names}
