"""ONNX Runtime's TensorRT provider, set up in config.pbtxt under the names that Triton's native backend reads.

Source of the names: github.com/triton-inference-server/onnxruntime_backend, README, "ONNX Runtime with TensorRT
optimization", as its 24.04 release and later read them. Servers without a GPU ignore the section.
Never run on a GPU by us; see docs/tensorrt.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from salf_contract import TensorSpec, quoted
from salf_export.errors import OptionError

_MODES = {"fp32": "FP32", "fp16": "FP16", "int8": "INT8"}


@dataclass(frozen=True)
class TensorRtProvider:
    """How ONNX Runtime lets TensorRT compute a model.

    Attributes:
        precision: "int8" needs a graph with quantisation nodes. bf16 is not read by the backend of 24.12.
        max_workspace_bytes: GPU memory that a layer may use for a while.
        cache_directory: absolute path on the server, writable, where built engines are kept; None: every start of the
            server builds them again, which takes minutes.
        optimal_batch: the batch size that engines are built for; None: the model's largest.
    """

    precision: Literal["fp32", "fp16", "int8"] = "fp16"
    max_workspace_bytes: int = 1 << 30
    cache_directory: str | None = None
    optimal_batch: int | None = None

    def __post_init__(self) -> None:
        if self.precision not in _MODES:
            raise OptionError(
                f"ONNX Runtime's TensorRT provider takes the precisions {', '.join(_MODES)}, not {self.precision!r}"
            )
        if self.max_workspace_bytes < 1:
            raise OptionError(f"max_workspace_bytes is {self.max_workspace_bytes}, expected at least 1")
        if self.cache_directory is not None and not PurePosixPath(self.cache_directory).is_absolute():
            raise OptionError(
                f"the cache directory {self.cache_directory!r} is relative, but the server's working directory is "
                "unknown here; give an absolute path, such as /var/cache/salf/tensorrt"
            )
        if self.optimal_batch is not None and self.optimal_batch < 1:
            raise OptionError(f"optimal_batch is {self.optimal_batch}, expected at least 1")


def provider_lines(
    provider: TensorRtProvider, inputs: Sequence[TensorSpec], *, sizes: Mapping[str, int], max_batch_size: int
) -> list[str]:
    """The `optimization` section of a model's config.pbtxt.

    Args:
        provider: the settings.
        inputs: of the model.
        sizes: what "H", "W", "h" and "w" are.
        max_batch_size: of the model: engines take batches from 1 to this.

    Raises:
        OptionError: an input whose size is not fixed: no profile can be stated for it.
    """
    optimal = min(provider.optimal_batch or max_batch_size, max_batch_size)
    parameters = {
        "precision_mode": _MODES[provider.precision],
        "max_workspace_size_bytes": str(provider.max_workspace_bytes),
        "trt_profile_min_shapes": _shapes(inputs, sizes, 1),
        "trt_profile_opt_shapes": _shapes(inputs, sizes, optimal),
        "trt_profile_max_shapes": _shapes(inputs, sizes, max_batch_size),
    }
    if provider.cache_directory is not None:
        parameters |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": provider.cache_directory}
    return [
        "optimization { execution_accelerators { gpu_execution_accelerator : [ {",
        '  name : "tensorrt"',
        *(f"  parameters {{ key: {quoted(key)} value: {quoted(value)} }}" for key, value in parameters.items()),
        "} ] } }",
    ]


def _shapes(inputs: Sequence[TensorSpec], sizes: Mapping[str, int], batch: int) -> str:
    """`image:8x224x224x3,target:8x1`."""
    shapes = []
    for spec in inputs:
        dims = [sizes[dim] if isinstance(dim, str) else dim for dim in spec.dims]
        if min(dims) < 1:
            raise OptionError(
                f"input {spec.name!r} has no fixed size, so TensorRT has no profile for it; export models that start "
                "from features without the TensorRT provider"
            )
        shapes.append(f"{spec.name}:{'x'.join(map(str, (batch, *dims)))}")
    return ",".join(shapes)
