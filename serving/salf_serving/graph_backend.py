"""What Triton's Python-based graph backends share: reading requests, batching them, splitting answers.

Runs inside Triton's Python stub, beside each backend's model.py (backend_files.py copies it there), so it imports
nothing of salf. It is not importable elsewhere: `triton_python_backend_utils` comes from the stub.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from graph_config import Array, Port, parse_ports


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
        most_rows = int(config.get("max_batch_size", 0))
        self.batched = most_rows > 0
        self.inputs, self.outputs = parse_ports(config["input"]), parse_ports(config["output"])
        self.output_names = tuple(port.name for port in self.outputs)
        self.load(config, directory)
        self._warm_up([1, most_rows] if most_rows > 1 else [1])

    def _warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Run the graph on zeros: each instance chooses kernels and takes memory before it counts as loaded.

        A probe reaches one instance only, with one row. A model whose inputs have open sizes is left alone.
        """
        if any(dim < 0 for port in self.inputs for dim in port.dims):
            return
        for rows in batch_sizes:
            batch = (rows,) if self.batched else ()
            feed = {port.name: np.zeros((*batch, *port.dims), port.dtype) for port in self.inputs}
            try:
                self.compute(self.output_names, feed)
            except Exception as error:  # noqa: BLE001 - zeros may not suit the model; whether it answers, its probe says
                pb_utils.Logger.log_warn(f"{self.name} was not warmed up: {' '.join(str(error).split())}")
                return

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
