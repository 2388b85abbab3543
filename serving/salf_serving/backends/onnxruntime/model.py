# ruff: noqa: INP001 - a backend directory of Triton's, not a package
"""Triton backend `onnxruntime` for servers that come without the native one.

Runs inside Triton's Python stub, from a backend directory, so it imports nothing of salf. It reads the parameters that
the native backend reads (github.com/triton-inference-server/onnxruntime_backend, README and src/onnxruntime.cc), so
that one config.pbtxt serves both, and refuses names that neither knows.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

#: Set by `salf serve --threads`; wins over a model's own `intra_op_thread_count`.
THREADS_VARIABLE = "SALF_INTRA_OP_THREADS"
DEFAULT_MODEL_FILE = "model.onnx"

#: Parameters that speak to salf's clients, not to backends.
_OWN_PREFIX = "salf_"
#: The native backend reads these on a GPU only; they mean nothing on a CPU.
_GPU_ONLY = frozenset({"cudnn_conv_algo_search", "gpu_mem_limit", "arena_extend_strategy", "do_copy_in_default_stream"})
_DEVICE_ALLOCATOR = "session.use_device_allocator_for_initializers"
_ARENA_SHRINKAGE = "memory.enable_memory_arena_shrinkage"
_KNOWN = frozenset({"intra_op_thread_count", "inter_op_thread_count", "execution_mode", "enable_mem_arena",
                    "enable_mem_pattern", _DEVICE_ALLOCATOR, _ARENA_SHRINKAGE})  # fmt: skip

_OPTIMIZATION_LEVELS = {
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}

#: config.pbtxt's data type -> (ONNX Runtime's name, numpy type).
_TYPES: dict[str, tuple[str, type[np.generic]]] = {
    "TYPE_BOOL": ("tensor(bool)", np.bool_),
    "TYPE_UINT8": ("tensor(uint8)", np.uint8),
    "TYPE_UINT16": ("tensor(uint16)", np.uint16),
    "TYPE_UINT32": ("tensor(uint32)", np.uint32),
    "TYPE_UINT64": ("tensor(uint64)", np.uint64),
    "TYPE_INT8": ("tensor(int8)", np.int8),
    "TYPE_INT16": ("tensor(int16)", np.int16),
    "TYPE_INT32": ("tensor(int32)", np.int32),
    "TYPE_INT64": ("tensor(int64)", np.int64),
    "TYPE_FP16": ("tensor(float16)", np.float16),
    "TYPE_FP32": ("tensor(float)", np.float32),
    "TYPE_FP64": ("tensor(double)", np.float64),
}

Array = NDArray[Any]


@dataclass(frozen=True)
class Settings:
    """What a model's config.pbtxt asks of ONNX Runtime; defaults are the native backend's.

    Thread counts of 0 mean: as many as ONNX Runtime chooses.
    """

    intra_op_thread_count: int = 0
    inter_op_thread_count: int = 0
    parallel: bool = False
    optimization_level: int = 0
    enable_mem_arena: bool = True
    enable_mem_pattern: bool = True
    session_entries: dict[str, str] = field(default_factory=dict)
    run_entries: dict[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Port:
    """One tensor of the model as config.pbtxt declares it; dims without the batch axis, -1 for any."""

    name: str
    dtype: np.dtype[Any]
    ort_type: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Ask:
    """One well-formed request: its inputs (with batch axis if the model batches) and the outputs it wants."""

    index: int
    inputs: dict[str, Array]
    outputs: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Length of the first axis of the first input."""
        return int(next(iter(self.inputs.values())).shape[0])

    @property
    def kind(self) -> tuple[tuple[int, ...], ...]:
        """Shapes without the first axis: what must agree between requests that run together."""
        return tuple(array.shape[1:] for array in self.inputs.values())


class RequestError(ValueError):
    """A request does not fit the model; it gets an error response, its neighbours are not touched."""


def parse_settings(config: Mapping[str, Any], *, threads: int | None = None) -> Settings:
    """Read the session's settings from a model configuration.

    Args:
        config: Triton's model configuration as JSON gives it.
        threads: threads for one inference, over what the model says; None leaves it to the model.

    Raises:
        ValueError: an unknown parameter, or a value that is none of the expected ones.
    """
    given = {key: str(value["string_value"]) for key, value in config.get("parameters", {}).items()
             if not key.startswith(_OWN_PREFIX)}  # fmt: skip
    unknown = sorted(given.keys() - _KNOWN - _GPU_ONLY)
    if unknown:
        raise ValueError(
            f"unknown parameter {', '.join(map(repr, unknown))} in config.pbtxt; "
            f"the onnxruntime backend reads {', '.join(sorted(_KNOWN))}"
        )
    optimization = config.get("optimization", {})
    accelerators = optimization.get("execution_accelerators", {})
    on_cpu = [str(entry.get("name")) for entry in accelerators.get("cpu_execution_accelerator", [])]
    if on_cpu:
        raise ValueError(
            f"cpu_execution_accelerator {', '.join(on_cpu)} is not available in this server, "
            "only ONNX Runtime's own CPU kernels are; remove it from config.pbtxt"
        )
    level = int(optimization.get("graph", {}).get("level", 0))
    if level not in _OPTIMIZATION_LEVELS:
        raise ValueError(f"optimization graph level must be -1, 0, 1 or 2, but is {level}")
    gpu_only = sorted(given.keys() & _GPU_ONLY)
    if accelerators.get("gpu_execution_accelerator"):
        gpu_only.append("gpu_execution_accelerator")
    intra = _count(given, "intra_op_thread_count")
    return Settings(
        intra_op_thread_count=intra if threads is None else threads,
        inter_op_thread_count=_count(given, "inter_op_thread_count"),
        parallel=_flag(given, "execution_mode", default=False),
        optimization_level=level,
        enable_mem_arena=_flag(given, "enable_mem_arena", default=True),
        enable_mem_pattern=_flag(given, "enable_mem_pattern", default=True),
        session_entries={key: given[key] for key in (_DEVICE_ALLOCATOR,) if key in given},
        run_entries={key: given[key] for key in (_ARENA_SHRINKAGE,) if key in given},
        ignored=tuple(gpu_only),
    )


def parse_ports(entries: Iterable[Mapping[str, Any]]) -> tuple[Port, ...]:
    """Read the `input` or `output` section of a model configuration.

    Raises:
        ValueError: a data type that cannot be served.
    """
    ports = []
    for entry in entries:
        if entry["data_type"] not in _TYPES:
            raise ValueError(
                f"tensor {entry['name']!r} has type {entry['data_type']}; the onnxruntime backend serves "
                f"{', '.join(name.removeprefix('TYPE_') for name in _TYPES)}"
            )
        ort_type, dtype = _TYPES[entry["data_type"]]
        dims = tuple(int(dim) for dim in entry["dims"])
        ports.append(Port(str(entry["name"]), np.dtype(dtype), ort_type, dims))
    return tuple(ports)


def check_graph(ports: Iterable[Port], graph: Iterable[Any], *, batched: bool, what: str) -> None:
    """Compare config.pbtxt with the graph.

    Args:
        ports: tensors declared in config.pbtxt.
        graph: the session's tensors, with `name`, `type` and `shape`.
        batched: whether the graph's shapes carry a batch axis that config.pbtxt leaves out.
        what: "input" or "output", for messages.

    Raises:
        ValueError: a name is missing, or type or shape differ.
    """
    found = {node.name: node for node in graph}
    for port in ports:
        if port.name not in found:
            raise ValueError(f"{what} {port.name!r} of config.pbtxt is not in the graph, which has {', '.join(found)}")
        node = found[port.name]
        if node.type != port.ort_type:
            raise ValueError(f"{what} {port.name!r} is {port.ort_type} in config.pbtxt but {node.type} in the graph")
        shape = list(node.shape)[1:] if batched else list(node.shape)
        differs = any(isinstance(a, int) and b != -1 and a != b for a, b in zip(shape, port.dims, strict=False))
        if len(shape) != len(port.dims) or differs:
            raise ValueError(f"{what} {port.name!r} is {list(port.dims)} in config.pbtxt but {shape} in the graph")
    if what == "input":
        missing = sorted(found.keys() - {port.name for port in ports})
        if missing:
            raise ValueError(f"input {', '.join(map(repr, missing))} of the graph is missing in config.pbtxt")


def check_input(port: Port, array: Array, *, batched: bool) -> None:
    """Check one input of a request.

    Raises:
        RequestError: another type or shape than declared, or no rows.
    """
    shape = array.shape[1:] if batched else array.shape
    fits = len(shape) == len(port.dims) and all(want in (-1, got) for got, want in zip(shape, port.dims, strict=True))
    if array.dtype != port.dtype or not fits or (batched and (array.ndim == 0 or array.shape[0] == 0)):
        expected = [*(["batch"] if batched else []), *port.dims]
        raise RequestError(
            f"input {port.name!r} must be {port.dtype} {expected}, but is {array.dtype} {list(array.shape)}"
        )


class TritonPythonModel:
    """What Triton's Python stub calls: one instance of one model version."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the session.

        Args:
            args: `model_config` (JSON), `model_repository` (the model's directory), `model_version`, `model_name`.

        Raises:
            TritonModelException: the model cannot be served; one sentence says why.
        """
        self.name = f"{args['model_name']} version {args['model_version']}"
        try:
            self._open(json.loads(args["model_config"]), Path(args["model_repository"]) / args["model_version"])
        except Exception as error:
            # ONNX Runtime raises a dozen classes without a common base; each means that this version cannot be loaded.
            raise pb_utils.TritonModelException(f"{self.name}: {' '.join(str(error).split())}") from error

    def _open(self, config: Mapping[str, Any], directory: Path) -> None:
        if int(np.__version__.split(".")[0]) >= 2:
            raise ValueError(f"numpy must be < 2 in the server's runtime, but is {np.__version__}")
        threads = os.environ.get(THREADS_VARIABLE)
        settings = parse_settings(config, threads=int(threads) if threads else None)
        if settings.ignored:
            pb_utils.Logger.log_warn(f"{self.name}: no effect without a GPU: {', '.join(settings.ignored)}")
        path = directory / (config.get("default_model_filename") or DEFAULT_MODEL_FILE)
        if path.is_dir():
            path = path / DEFAULT_MODEL_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; export the model again")
        self.session = ort.InferenceSession(path, _session_options(settings), providers=["CPUExecutionProvider"])
        self.batched = int(config.get("max_batch_size", 0)) > 0
        self.inputs, self.outputs = parse_ports(config["input"]), parse_ports(config["output"])
        check_graph(self.inputs, self.session.get_inputs(), batched=self.batched, what="input")
        check_graph(self.outputs, self.session.get_outputs(), batched=self.batched, what="output")
        self.output_names = tuple(port.name for port in self.outputs)
        self.run_options = ort.RunOptions()
        for key, value in settings.run_entries.items():
            self.run_options.add_run_config_entry(key, value)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests that Triton batched: one run for all whose shapes agree.

        Returns:
            One response per request, in order; a request that cannot be answered gets an error response.
        """
        responses: list[Any] = [None] * len(requests)
        groups: dict[Any, list[Ask]] = {}
        for index, request in enumerate(requests):
            try:
                ask = self._read(index, request)
                groups.setdefault(ask.kind if self.batched else index, []).append(ask)
            except Exception as error:  # noqa: BLE001 - whatever a request does, the worker lives on
                responses[index] = _error_response(f"{self.name}: {error}")
        for asks in groups.values():
            for ask, response in zip(asks, self._answer(asks), strict=True):
                responses[ask.index] = response
        return responses

    def _read(self, index: int, request: Any) -> Ask:
        arrays: dict[str, Array] = {}
        for port in self.inputs:
            tensor = pb_utils.get_input_tensor_by_name(request, port.name)
            if tensor is None:
                raise RequestError(f"input {port.name!r} is missing")
            array = tensor.as_numpy()  # a view of shared memory
            check_input(port, array, batched=self.batched)
            arrays[port.name] = array
        if self.batched and len({array.shape[0] for array in arrays.values()}) > 1:
            sizes = ", ".join(f"{name} {array.shape[0]}" for name, array in arrays.items())
            raise RequestError(f"inputs must have one batch size, but have {sizes}")
        wanted = request.requested_output_names()
        return Ask(index, arrays, tuple(name for name in self.output_names if name in wanted))

    def _answer(self, asks: Sequence[Ask]) -> list[Any]:
        try:
            return self._run(asks)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors have no common base
            if len(asks) == 1:
                return [_error_response(f"{self.name}: {' '.join(str(error).split())}")]
            # One request's values may have failed the batch: the others still get their answers.
            return [self._answer([ask])[0] for ask in asks]

    def _run(self, asks: Sequence[Ask]) -> list[Any]:
        names = [name for name in self.output_names if any(name in ask.outputs for ask in asks)]
        if len(asks) == 1:
            feed = asks[0].inputs
        else:
            feed = {port.name: np.concatenate([ask.inputs[port.name] for ask in asks]) for port in self.inputs}
        results = dict(zip(names, self.session.run(names, feed, self.run_options), strict=True)) if names else {}
        if len(asks) == 1:
            return [_response(asks[0], results)]
        rows = sum(ask.rows for ask in asks)
        for name, array in results.items():
            if array.shape[:1] != (rows,):
                raise ValueError(f"output {name!r} has shape {list(array.shape)} for a batch of {rows}")
        responses, start = [], 0
        for ask in asks:
            stop = start + ask.rows
            responses.append(_response(ask, {name: array[start:stop] for name, array in results.items()}))
            start = stop
        return responses


def _response(ask: Ask, results: Mapping[str, Array]) -> Any:
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, results[name]) for name in ask.outputs])


def _error_response(message: str) -> Any:
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(message))


def _session_options(settings: Settings) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.intra_op_thread_count
    options.inter_op_num_threads = settings.inter_op_thread_count
    options.execution_mode = ort.ExecutionMode.ORT_PARALLEL if settings.parallel else ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = _OPTIMIZATION_LEVELS[settings.optimization_level]
    options.enable_cpu_mem_arena = settings.enable_mem_arena
    options.enable_mem_pattern = settings.enable_mem_pattern
    # All graphs share the cores with each other and with the decoders: threads of an idle one must not spin on them.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    for key, value in settings.session_entries.items():
        options.add_session_config_entry(key, value)
    return options


def _count(given: Mapping[str, str], key: str) -> int:
    text = given.get(key, "0")
    if not text.strip().isdigit():
        raise ValueError(f"parameter {key!r} must be a number of threads (0: ONNX Runtime chooses), but is {text!r}")
    return int(text)


def _flag(given: Mapping[str, str], key: str, *, default: bool) -> bool:
    text = given.get(key, "1" if default else "0").strip().lower()
    if text not in ("0", "1", "true", "false"):
        raise ValueError(f"parameter {key!r} must be 0 or 1, but is {given[key]!r}")
    return text in ("1", "true")
