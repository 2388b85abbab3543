"""What Triton's Python-based graph backends read in a model's config.pbtxt, and how they compare it with the graph.

Runs beside graph_backend.py inside Triton's Python stub; it imports nothing of salf.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Set by `salf serve` to the number of cores that it may use.
BUDGET_VARIABLE = "SALF_THREAD_BUDGET"
#: Set by `salf serve --threads`; wins over that, and over a model's own number of threads.
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


@dataclass(frozen=True)
class ThreadBudget:
    """What each graph may take of the cores; the instances of one graph divide it.

    Attributes:
        threads: of all instances of a graph together.
        insists: the operator named it: what models say does not count.
    """

    threads: int
    insists: bool = False

    def share(self, asked: int, config: Mapping[str, Any]) -> int:
        """Threads of one inference in one instance, at least 1.

        Args:
            asked: what the model says; 0 for nothing.
            config: Triton's model configuration, for its number of instances.
        """
        instances = sum(int(group.get("count", 1)) for group in config.get("instance_group", []))
        share = max(1, self.threads // max(1, instances))
        return share if self.insists or not asked else min(asked, share)


def within_budget(
    asked: Mapping[str, int], budget: ThreadBudget | None, config: Mapping[str, Any]
) -> tuple[dict[str, int], list[str]]:
    """Numbers of threads as the budget leaves them, and which of the model's own it cut, in words for the log.

    Args:
        asked: parameter -> what the model says; 0 for nothing.
        budget: None leaves everything as it is.
        config: Triton's model configuration.
    """
    if budget is None:
        return dict(asked), []
    left = {key: budget.share(number, config) for key, number in asked.items()}
    cut = [f"{key} over {left[key]}" for key, number in asked.items() if number > left[key] and not budget.insists]
    return left, cut


def thread_budget() -> ThreadBudget | None:
    """What `salf serve` passed down; None in a server that it did not start."""
    threads, budget = os.environ.get(THREADS_VARIABLE), os.environ.get(BUDGET_VARIABLE)
    if threads:
        return ThreadBudget(int(threads), insists=True)
    return ThreadBudget(int(budget)) if budget else None


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
