# ruff: noqa: INP001 - a backend directory of Triton's, not a package
"""Triton backend `openvino` for servers that come without the native one.

Runs inside Triton's Python stub, from a backend directory, so it imports nothing of salf but the copies of
graph_backend.py and graph_config.py beside it. It reads the parameters that the native backend reads
(github.com/triton-inference-server/openvino_backend, README and src/openvino.cc at db19304), so that one config.pbtxt
serves both, and refuses names that neither knows.

Two things differ on purpose. Precision is float32 unless HINT_BF16 asks for less: the native backend leaves it to
OpenVINO, which on CPUs with bfloat16 computes everything in it. And any batch size up to max_batch_size is computed as
it is: the native backend compiles for max_batch_size and fills up (ENABLE_BATCH_PADDING).
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Triton's stub puts this folder into no path.
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import openvino
from graph_backend import GraphModel
from graph_config import (
    Array,
    GraphTensor,
    ThreadBudget,
    check_graph,
    given_parameters,
    graph_file,
    thread_budget,
    thread_count,
    within_budget,
)

DEFAULT_MODEL_FILE = "model.xml"

_HINTS = ("LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT")
#: These change how the native backend prepares a model; here every batch size and declared shape is computed as it is.
_IGNORED = frozenset({"SKIP_OV_DYNAMIC_BATCHSIZE", "RESHAPE_IO_LAYERS"})
#: Without effect too, but written by salf for the native backend: no reason for a warning.
_PADDING = "ENABLE_BATCH_PADDING"
_KNOWN = frozenset({"PERFORMANCE_HINT", "CPU_EXTENSION_PATH", "INFERENCE_NUM_THREADS", "COMPILATION_NUM_THREADS",
                    "HINT_BF16", "NUM_STREAMS", "TARGET_DEVICE", _PADDING, *_IGNORED})  # fmt: skip

#: numpy type -> OpenVINO's name.
_KINDS = {
    np.dtype(np.bool_): "boolean",
    np.dtype(np.uint8): "u8",
    np.dtype(np.uint16): "u16",
    np.dtype(np.uint32): "u32",
    np.dtype(np.uint64): "u64",
    np.dtype(np.int8): "i8",
    np.dtype(np.int16): "i16",
    np.dtype(np.int32): "i32",
    np.dtype(np.int64): "i64",
    np.dtype(np.float16): "f16",
    np.dtype(np.float32): "f32",
    np.dtype(np.float64): "f64",
}


@dataclass(frozen=True)
class Settings:
    """What a model's config.pbtxt asks of OpenVINO.

    Attributes:
        properties: OpenVINO's own names and values, for compiling.
        extension: shared library with further operations; None for none.
        ignored: parameters without effect.
    """

    properties: dict[str, object] = field(default_factory=dict)
    extension: str | None = None
    ignored: tuple[str, ...] = ()


def parse_settings(config: Mapping[str, Any], *, budget: ThreadBudget | None = None) -> Settings:
    """Read a model configuration.

    Args:
        config: Triton's model configuration as JSON gives it.
        budget: of threads; None leaves them to the model and to OpenVINO.

    Raises:
        ValueError: an unknown parameter, or a value that is none of the expected ones.
    """
    given = given_parameters(config, known=_KNOWN, backend="openvino")
    device = given.get("TARGET_DEVICE", "CPU").strip().upper()
    if device != "CPU":
        raise ValueError(f"TARGET_DEVICE {device} is not available in this server, only CPU is; remove it")
    bf16 = _one_of(given, "HINT_BF16", ("YES",))
    properties: dict[str, object] = {"INFERENCE_PRECISION_HINT": "f32" if bf16 is None else "bf16"}
    hint = _one_of(given, "PERFORMANCE_HINT", _HINTS)
    if hint is not None:
        properties["PERFORMANCE_HINT"] = hint
    streams = given.get("NUM_STREAMS", "").strip().upper()
    if streams and streams not in ("AUTO", "NUMA") and not streams.isdigit():
        raise ValueError(f"parameter 'NUM_STREAMS' must be AUTO, NUMA or a number, but is {given['NUM_STREAMS']!r}")
    if streams:
        properties["NUM_STREAMS"] = streams
    asked = {key: thread_count(given, key) for key in ("INFERENCE_NUM_THREADS", "COMPILATION_NUM_THREADS")}
    inference, cut = within_budget({"INFERENCE_NUM_THREADS": asked["INFERENCE_NUM_THREADS"]}, budget, config)
    properties |= {key: count for key, count in (asked | inference).items() if count}
    ignored = (*sorted(given.keys() & _IGNORED), *cut)
    return Settings(properties, given.get("CPU_EXTENSION_PATH") or None, ignored)


class TritonPythonModel(GraphModel):  # type: ignore[misc] # mypy knows graph_backend as part of salf_serving only
    """What Triton's Python stub calls: one instance of one model version."""

    def load(self, config: Mapping[str, Any], directory: Path) -> None:
        """See `GraphModel`."""
        settings = parse_settings(config, budget=thread_budget())
        self.warn_of_ignored(settings.ignored)
        core = openvino.Core()
        if settings.extension is not None:
            core.add_extension(settings.extension)
        model = core.read_model(graph_file(config, directory, DEFAULT_MODEL_FILE))
        for what, ports, found in (("input", self.inputs, model.inputs), ("output", self.outputs, model.outputs)):
            tensors = [_tensor(port) for port in found]
            check_graph(ports, tensors, _KINDS, batched=self.batched, what=what)
        self.request = core.compile_model(model, "CPU", settings.properties).create_infer_request()

    def compute(self, names: Sequence[str], feed: Mapping[str, Array]) -> Sequence[Array]:
        """See `GraphModel`."""
        # Inputs are read where they lie; answers are copied, since the next run overwrites them.
        for name, array in feed.items():
            self.request.set_tensor(name, openvino.Tensor(np.ascontiguousarray(array), shared_memory=True))
        self.request.infer()
        return [self.request.get_tensor(name).data.copy() for name in names]


def _tensor(port: Any) -> GraphTensor:
    shape = tuple(dim.get_length() if dim.is_static else str(dim) for dim in port.get_partial_shape())
    return GraphTensor(port.get_any_name(), port.get_element_type().get_type_name(), shape)


def _one_of(given: Mapping[str, str], key: str, choices: Sequence[str]) -> str | None:
    """A choice in upper case; None if it is not given."""
    text = given.get(key, "").strip().upper()
    if text and text not in choices:
        raise ValueError(f"parameter {key!r} must be {' or '.join(choices)}, but is {given[key]!r}")
    return text or None
