"""Answer with a built engine in this process, to compare it with the PyTorch model before it is published.

Never run on a GPU by us; see docs/tensorrt.md.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from salf_export.errors import GraphError
from salf_export.runtime import Arrays
from salf_export.tensorrt_api import TensorRt, load_tensorrt

_TORCH_TYPES = {"float32": torch.float32, "int32": torch.int32, "uint8": torch.uint8, "int64": torch.int64}


class EngineSession:
    """An engine on the GPU; reads and writes torch's CUDA tensors.

    Args:
        plan: of this GPU and this release of TensorRT.
        tensorrt: the module; None imports it.

    Raises:
        GraphError: the plan is of another GPU or release.
    """

    def __init__(self, plan: bytes, *, tensorrt: TensorRt | None = None) -> None:
        api = tensorrt or load_tensorrt()
        self._api = api
        self._engine: Any = api.Runtime(api.Logger(api.Logger.WARNING)).deserialize_cuda_engine(plan)
        if self._engine is None:
            raise GraphError(
                f"TensorRT {api.__version__} cannot load the engine on this GPU; build it here, inside the same image"
            )
        self._context: Any = self._engine.create_execution_context()
        names = [str(self._engine.get_tensor_name(index)) for index in range(self._engine.num_io_tensors)]
        inputs = {name for name in names if self._engine.get_tensor_mode(name) == api.TensorIOMode.INPUT}
        self.runtime = f"tensorrt {api.__version__}"
        self.input_names: list[str] = [name for name in names if name in inputs]
        self.output_names: list[str] = [name for name in names if name not in inputs]

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """Answer a batch; inputs that the engine does not have are left out.

        Args:
            inputs: name -> array with the batch axis first, within the engine's profile.

        Returns:
            Output name -> array.

        Raises:
            GraphError: the batch is outside the profile, or TensorRT failed.
        """
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            held = {name: torch.from_numpy(np.ascontiguousarray(inputs[name])).cuda() for name in self.input_names}
            for name, tensor in held.items():
                if not self._context.set_input_shape(name, tuple(tensor.shape)):
                    raise GraphError(f"input {name!r} of shape {list(tensor.shape)} is outside the engine's profile")
            for name in self.output_names:
                kind = _TORCH_TYPES[np.dtype(self._api.nptype(self._engine.get_tensor_dtype(name))).name]
                held[name] = torch.empty(tuple(self._context.get_tensor_shape(name)), dtype=kind, device="cuda")
            for name, tensor in held.items():
                self._context.set_tensor_address(name, tensor.data_ptr())
            if not self._context.execute_async_v3(stream.cuda_stream):
                raise GraphError("TensorRT could not run the engine; its log above says why")
        stream.synchronize()
        return {name: held[name].cpu().numpy() for name in self.output_names}
