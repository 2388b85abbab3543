"""The part of NVIDIA's `tensorrt` package (10.x) that engines are built with, as a Protocol of ours.

The package is imported when an engine is asked for, and not before: it cannot be installed everywhere, and a machine
without it must export everything else. Tests put a recording double in its place.
Source of the calls: NVIDIA TensorRT 10 Python API reference. Never run on a GPU by us; see docs/tensorrt.md.
"""

import importlib
from typing import Any, Protocol, cast

from salf_export.errors import MissingExtraError, OptionError

#: What the calls below were written for: 24.12's server has 10.7. Later majors dropped the precision flags.
MAJOR = 10
_REMEDY = (
    "run the export inside the server's own image, which has the GPU and the right release, after "
    "pip install tensorrt==<the release in that image> (docs/tensorrt.md has the command)"
)


class Tensor(Protocol):
    """An input or output of a network; -1 in `shape` is only known when it runs."""

    name: str
    shape: tuple[int, ...]
    dtype: Any


class Layer(Protocol):
    """A layer of a network; ONNX nodes give layers their names."""

    name: str
    precision: Any
    num_inputs: int
    num_outputs: int

    def get_input(self, index: int) -> Tensor | None: ...  # noqa: D102

    def get_output(self, index: int) -> Tensor: ...  # noqa: D102

    def set_output_type(self, index: int, dtype: Any) -> None: ...  # noqa: D102


class Network(Protocol):
    """What the parser fills."""

    num_inputs: int
    num_layers: int

    def get_input(self, index: int) -> Tensor: ...  # noqa: D102

    def get_layer(self, index: int) -> Layer: ...  # noqa: D102


class Parser(Protocol):
    """Reads ONNX."""

    num_errors: int

    def parse(self, model: bytes) -> bool: ...  # noqa: D102

    def get_error(self, index: int) -> Any: ...  # noqa: D102


class Profile(Protocol):
    """Which shapes an engine takes."""

    def set_shape(  # noqa: D102
        self,
        input: str,  # noqa: A002 - NVIDIA's names
        min: tuple[int, ...],  # noqa: A002
        opt: tuple[int, ...],
        max: tuple[int, ...],  # noqa: A002
    ) -> None: ...


class TimingCache(Protocol):
    """What was measured while building: the next build is faster, and chooses the same."""

    def serialize(self) -> Any: ...  # noqa: D102


class BuilderConfig(Protocol):
    """How to build."""

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None: ...  # noqa: D102

    def set_flag(self, flag: Any) -> None: ...  # noqa: D102

    def clear_flag(self, flag: Any) -> None: ...  # noqa: D102

    def add_optimization_profile(self, profile: Profile) -> int: ...  # noqa: D102

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache | None: ...  # noqa: D102

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool: ...  # noqa: D102


class Builder(Protocol):
    """Makes networks, configurations and engines."""

    def create_network(self, flags: int) -> Network: ...  # noqa: D102

    def create_builder_config(self) -> BuilderConfig: ...  # noqa: D102

    def create_optimization_profile(self) -> Profile: ...  # noqa: D102

    def build_serialized_network(self, network: Network, config: BuilderConfig) -> Any: ...  # noqa: D102


class TensorRt(Protocol):
    """The module itself. `Any` where it gives enumerations."""

    __version__: str
    Logger: Any
    BuilderFlag: Any
    MemoryPoolType: Any
    TensorIOMode: Any
    float32: Any

    def Builder(self, logger: Any) -> Builder: ...  # noqa: D102, N802

    def OnnxParser(self, network: Network, logger: Any) -> Parser: ...  # noqa: D102, N802

    def Runtime(self, logger: Any) -> Any: ...  # noqa: D102, N802

    def nptype(self, dtype: Any) -> Any: ...  # noqa: D102


def load_tensorrt() -> TensorRt:
    """Import `tensorrt`.

    Raises:
        MissingExtraError: it is not installed, or its libraries cannot be loaded.
        OptionError: another major release.
    """
    try:
        module = importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise MissingExtraError(
            f"--runtime tensorrt needs NVIDIA's package tensorrt, which cannot be imported here ({error}); {_REMEDY}"
        ) from error
    version = str(getattr(module, "__version__", "unknown"))
    if version.partition(".")[0] != str(MAJOR):
        raise OptionError(f"tensorrt {version} is installed, but engines are built with {MAJOR}.x; {_REMEDY}")
    return cast("TensorRt", module)


def engine_provenance(tensorrt: TensorRt | None = None) -> dict[str, str]:
    """What a built engine is bound to: the release of TensorRT and the GPU.

    Args:
        tensorrt: the module; None imports it.

    Raises:
        MissingExtraError: tensorrt is missing, or no GPU is there.
        OptionError: another major release of tensorrt.
    """
    import torch

    version = (tensorrt or load_tensorrt()).__version__
    if not torch.cuda.is_available():
        raise MissingExtraError(f"--runtime tensorrt needs an NVIDIA GPU, and torch finds none here; {_REMEDY}")
    major, minor = torch.cuda.get_device_capability()
    return {
        "tensorrt_version": version,
        "gpu": torch.cuda.get_device_name(),
        "gpu_compute_capability": f"{major}.{minor}",
    }
