# ruff: noqa: INP001 - a backend directory of Triton's, not a package
"""Triton backend `onnxruntime` for servers that come without the native one.

Runs inside Triton's Python stub, from a backend directory, so it imports nothing of salf but the copies of
graph_backend.py and graph_config.py beside it. It reads the parameters that the native backend reads
(github.com/triton-inference-server/onnxruntime_backend, README and src/onnxruntime.cc), so that one config.pbtxt serves
both, and refuses names that neither knows.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Triton's stub puts this folder into no path.
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import onnxruntime as ort
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

DEFAULT_MODEL_FILE = "model.onnx"

#: The native backend reads these on a GPU only; they mean nothing on a CPU.
_GPU_ONLY = frozenset({"cudnn_conv_algo_search", "gpu_mem_limit", "arena_extend_strategy", "do_copy_in_default_stream"})
_DEVICE_ALLOCATOR = "session.use_device_allocator_for_initializers"
_ARENA_SHRINKAGE = "memory.enable_memory_arena_shrinkage"
_KNOWN = frozenset({"intra_op_thread_count", "inter_op_thread_count", "execution_mode", "enable_mem_arena",
                    "enable_mem_pattern", _DEVICE_ALLOCATOR, _ARENA_SHRINKAGE})  # fmt: skip

_SPIN_US = 20

_OPTIMIZATION_LEVELS = {
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}

#: numpy type -> ONNX Runtime's name.
_KINDS = {
    np.dtype(np.bool_): "tensor(bool)",
    np.dtype(np.uint8): "tensor(uint8)",
    np.dtype(np.uint16): "tensor(uint16)",
    np.dtype(np.uint32): "tensor(uint32)",
    np.dtype(np.uint64): "tensor(uint64)",
    np.dtype(np.int8): "tensor(int8)",
    np.dtype(np.int16): "tensor(int16)",
    np.dtype(np.int32): "tensor(int32)",
    np.dtype(np.int64): "tensor(int64)",
    np.dtype(np.float16): "tensor(float16)",
    np.dtype(np.float32): "tensor(float)",
    np.dtype(np.float64): "tensor(double)",
}


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


def parse_settings(config: Mapping[str, Any], *, budget: ThreadBudget | None = None) -> Settings:
    """Read the session's settings from a model configuration.

    Args:
        config: Triton's model configuration as JSON gives it.
        budget: of threads; None leaves them to the model and to ONNX Runtime.

    Raises:
        ValueError: an unknown parameter, or a value that is none of the expected ones.
    """
    given = given_parameters(config, known=_KNOWN | _GPU_ONLY, backend="onnxruntime")
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
    asked = {key: thread_count(given, key) for key in ("intra_op_thread_count", "inter_op_thread_count")}
    threads, cut = within_budget(asked, budget, config)
    return Settings(
        intra_op_thread_count=threads["intra_op_thread_count"],
        inter_op_thread_count=threads["inter_op_thread_count"],
        parallel=_flag(given, "execution_mode", default=False),
        optimization_level=level,
        enable_mem_arena=_flag(given, "enable_mem_arena", default=True),
        enable_mem_pattern=_flag(given, "enable_mem_pattern", default=True),
        session_entries={key: given[key] for key in (_DEVICE_ALLOCATOR,) if key in given},
        run_entries={key: given[key] for key in (_ARENA_SHRINKAGE,) if key in given},
        ignored=(*gpu_only, *cut),
    )


class TritonPythonModel(GraphModel):  # type: ignore[misc] # mypy knows graph_backend as part of salf_serving only
    """What Triton's Python stub calls: one instance of one model version."""

    def load(self, config: Mapping[str, Any], directory: Path) -> None:
        """See `GraphModel`."""
        settings = parse_settings(config, budget=thread_budget())
        self.warn_of_ignored(settings.ignored)
        path = graph_file(config, directory, DEFAULT_MODEL_FILE)
        self.session = ort.InferenceSession(path, _session_options(settings), providers=["CPUExecutionProvider"])
        for what, ports, found in (
            ("input", self.inputs, self.session.get_inputs()),
            ("output", self.outputs, self.session.get_outputs()),
        ):
            tensors = [GraphTensor(node.name, node.type, tuple(node.shape)) for node in found]
            check_graph(ports, tensors, _KINDS, batched=self.batched, what=what)
        self.run_options = ort.RunOptions()
        for key, value in settings.run_entries.items():
            self.run_options.add_run_config_entry(key, value)

    def compute(self, names: Sequence[str], feed: Mapping[str, Array]) -> Sequence[Array]:
        """See `GraphModel`."""
        answers: Sequence[Array] = self.session.run(names, feed, self.run_options)
        return answers


def _session_options(settings: Settings) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.intra_op_thread_count
    options.inter_op_num_threads = settings.inter_op_thread_count
    options.execution_mode = ort.ExecutionMode.ORT_PARALLEL if settings.parallel else ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = _OPTIMIZATION_LEVELS[settings.optimization_level]
    options.enable_cpu_mem_arena = settings.enable_mem_arena
    options.enable_mem_pattern = settings.enable_mem_pattern
    # A thread that waits for the next operator spins so long and then sleeps: waking it costs as much as a small
    # operator. Not longer, and not after the run: graphs share the cores with each other, with the decoders and Triton,
    # and it would spin longest just when the thread that it waits for has lost its core.
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_US))
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    for key, value in settings.session_entries.items():
        options.add_session_config_entry(key, value)
    return options


def _flag(given: Mapping[str, str], key: str, *, default: bool) -> bool:
    text = given.get(key, "1" if default else "0").strip().lower()
    if text not in ("0", "1", "true", "false"):
        raise ValueError(f"parameter {key!r} must be 0 or 1, but is {given[key]!r}")
    return text in ("1", "true")
