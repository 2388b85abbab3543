"""What Triton's Python-based graph backends share: reading requests, batching them, splitting answers.

Runs inside Triton's Python stub, beside each backend's model.py (backend_files.py copies it there), so it imports
nothing of salf. It is not importable elsewhere: `triton_python_backend_utils` comes from the stub.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

#: Set by `salf serve --threads`; wins over a model's own number of threads.
THREADS_VARIABLE = "SALF_INTRA_OP_THREADS"
#: Parameters that speak to salf's clients, not to backends.
_OWN_PREFIX = "salf_"

#: config.pbtxt's data type -> numpy type.
TYPES: dict[str, type[np.generic]] = {
    "TYPE_BOOL": np.bool_,
    "TYPE_UINT8": np.uint8,
    "TYPE_UINT16": np.uint16,
    "TYPE_UINT32": np.uint32,
    "TYPE_UINT64": np.uint64,
    "TYPE_INT8": np.int8,
    "TYPE_INT16": np.int16,
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_FP16": np.float16,
    "TYPE_FP32": np.float32,
    "TYPE_FP64": np.float64,
}

Array = NDArray[Any]


@dataclass(frozen=True)
class Port:
    """One tensor of the model as config.pbtxt declares it; dims without the batch axis, -1 for any."""

    name: str
    dtype: np.dtype[Any]
    dims: tuple[int, ...]


@dataclass(frozen=True)
class GraphTensor:
    """One tensor of the loaded graph; `kind` is the runtime's word for its type, varying dims are no ints."""

    name: str
    kind: str
    shape: tuple[object, ...]


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


def parse_ports(entries: Iterable[Mapping[str, Any]]) -> tuple[Port, ...]:
    """Read the `input` or `output` section of a model configuration.

    Raises:
        ValueError: a data type that cannot be served.
    """
    ports = []
    for entry in entries:
        if entry["data_type"] not in TYPES:
            raise ValueError(
                f"tensor {entry['name']!r} has type {entry['data_type']}; salf's backends serve "
                f"{', '.join(name.removeprefix('TYPE_') for name in TYPES)}"
            )
        dims = tuple(int(dim) for dim in entry["dims"])
        ports.append(Port(str(entry["name"]), np.dtype(TYPES[entry["data_type"]]), dims))
    return tuple(ports)


def check_graph(
    ports: Iterable[Port], graph: Iterable[GraphTensor], kinds: Mapping[Any, str], *, batched: bool, what: str
) -> None:
    """Compare config.pbtxt with the graph.

    Args:
        ports: tensors declared in config.pbtxt.
        graph: the loaded graph's tensors.
        kinds: numpy dtype -> the runtime's word for it.
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
        kind = kinds.get(port.dtype, str(port.dtype))
        if node.kind != kind:
            raise ValueError(f"{what} {port.name!r} is {kind} in config.pbtxt but {node.kind} in the graph")
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


class GraphModel:
    """One instance of one model version. A backend's TritonPythonModel adds `load` and `compute`."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the graph.

        Args:
            args: `model_config` (JSON), `model_repository` (the model's directory), `model_version`, `model_name`.

        Raises:
            TritonModelException: the model cannot be served; one sentence says why.
        """
        self.name = f"{args['model_name']} version {args['model_version']}"
        try:
            self._open(json.loads(args["model_config"]), Path(args["model_repository"]) / args["model_version"])
        except Exception as error:
            # Runtimes raise a dozen classes without a common base; each means that this version cannot be loaded.
            raise pb_utils.TritonModelException(f"{self.name}: {' '.join(str(error).split())}") from error

    def load(self, config: Mapping[str, Any], directory: Path) -> None:
        """Load the graph and compare it with `self.inputs` and `self.outputs` (`check_graph`).

        Args:
            config: Triton's model configuration.
            directory: of the version.
        """
        raise NotImplementedError

    def compute(self, names: Sequence[str], feed: Mapping[str, Array]) -> Sequence[Array]:
        """Run the graph: the named outputs, in this order, of inputs by name."""
        raise NotImplementedError

    def _open(self, config: Mapping[str, Any], directory: Path) -> None:
        if int(np.__version__.split(".")[0]) >= 2:
            raise ValueError(f"numpy must be < 2 in the server's runtime, but is {np.__version__}")
        self.batched = int(config.get("max_batch_size", 0)) > 0
        self.inputs, self.outputs = parse_ports(config["input"]), parse_ports(config["output"])
        self.output_names = tuple(port.name for port in self.outputs)
        self.load(config, directory)

    def warn_of_ignored(self, names: Sequence[str]) -> None:
        """Say in the log which parameters have no effect here."""
        if names:
            pb_utils.Logger.log_warn(f"{self.name}: no effect on this server: {', '.join(names)}")

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
        except Exception as error:  # noqa: BLE001 - runtimes' errors have no common base
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
        results = dict(zip(names, self.compute(names, feed), strict=True)) if names else {}
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


def given_parameters(config: Mapping[str, Any], *, known: Iterable[str], backend: str) -> dict[str, str]:
    """The parameters of config.pbtxt that speak to the backend.

    Args:
        config: Triton's model configuration as JSON gives it.
        known: names that the backend may meet.
        backend: its name, for messages.

    Raises:
        ValueError: an unknown name.
    """
    given = {key: str(value["string_value"]) for key, value in config.get("parameters", {}).items()
             if not key.startswith(_OWN_PREFIX)}  # fmt: skip
    unknown = sorted(given.keys() - set(known))
    if unknown:
        raise ValueError(
            f"unknown parameter {', '.join(map(repr, unknown))} in config.pbtxt; "
            f"the {backend} backend reads {', '.join(sorted(known))}"
        )
    return given


def operators_threads() -> int | None:
    """Threads of one inference that the operator asked for; None leaves it to the model."""
    threads = os.environ.get(THREADS_VARIABLE)
    return int(threads) if threads else None


def graph_file(config: Mapping[str, Any], directory: Path, default: str) -> Path:
    """The file to load; a folder of that name holds it under its default name.

    Raises:
        FileNotFoundError: there is none.
    """
    path = directory / (config.get("default_model_filename") or default)
    if path.is_dir():
        path = path / default
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; export the model again")
    return path


def thread_count(given: Mapping[str, str], key: str) -> int:
    """A number of threads; 0 if it is not given.

    Raises:
        ValueError: no number.
    """
    text = given.get(key, "0")
    if not text.strip().isdigit():
        raise ValueError(f"parameter {key!r} must be a number of threads (0: the runtime chooses), but is {text!r}")
    return int(text)
